"""The server that the settings ask for: the values of the settings reach its parts here."""

from __future__ import annotations

import os
import sys

from graced.loop.admission import Admission
from graced.loop.policy import Policy
from graced.server import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from graced.app.handler_parts import HandlerParts
    from graced.app.settings import Settings
    from graced.handlers.registry import Handler
    from graced.handover.mirror import Mirror
    from graced.sockets.listener import Listener


def build(
    settings: Settings,
    handler: Handler | None,
    listeners: Sequence[Listener],
    mirror: Mirror | None,
    stop: Callable[[], None],
) -> tuple[Server, HandlerParts | None]:
    """Return a server that is not started yet, with the parts of its handler.

    `handler`: None for the built-in echo.  `mirror`: None where a crash may end connections.
    `stop` begins a stop of the service, for its handler to call in any thread.
    Calls the hook `startup`.  Raises `OSError` where the system has no epoll set or eventfd left,
    and `StartError` where the hook has failed.
    """
    if not handler:
        return _server(settings, settings.farewell, listeners, mirror), None
    # The built-in echo does without these modules: 2 ms of a start.
    from graced.app.handler_parts import HandlerParts  # noqa: PLC0415

    fast = False
    if handler.asynchronous:
        from graced.app import loop_choice  # noqa: PLC0415

        fast = loop_choice.is_fast(settings, handler, listeners)
    parts = HandlerParts(handler, settings.max_handler_threads, stop, fast=fast)
    server = _server(settings, handler.farewell, listeners, mirror, **parts.for_server)
    parts.start(server)
    return server, parts


def _server(
    settings: Settings,
    farewell: bytes | None,
    listeners: Sequence[Listener],
    mirror: Mirror | None,
    **for_handler: Any,
) -> Server:
    """A server with the limits of the settings.  `for_handler`: arguments of `Server`."""
    return Server(
        listeners,
        admission=Admission(settings.max_clients, settings.max_clients_per_host),
        policy=Policy(
            farewell=farewell,
            gap=settings.farewell_gap,
            idle_timeout=settings.idle_timeout,
            stall_timeout=settings.stall_timeout,
            log_connections=settings.connections,
            log_probes=settings.probes,
        ),
        mirror=mirror,
        io_threads=settings.io_threads or default_io_threads(),
        **for_handler,
    )


def default_io_threads() -> int:
    """The default number of I/O threads: 1 under a GIL, else the number of usable processors."""
    has_gil: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
    return 1 if has_gil else len(os.sched_getaffinity(0))
