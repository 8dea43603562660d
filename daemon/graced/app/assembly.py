"""The server that the settings ask for: the values of the settings reach its parts here."""

from __future__ import annotations

import os
import sys

from graced.loop.admission import Admission
from graced.loop.policy import Policy
from graced.server import Server
from graced.threads import start_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from ssl import SSLContext
    from typing import Any

    from graced.app.claims import Claims
    from graced.app.handler_parts import HandlerParts
    from graced.app.settings import Settings
    from graced.handlers.registry import Handler
    from graced.handover.mirror import Mirror
    from graced.loop.access import Access
    from graced.loop.handshaker import Handshaker
    from graced.loop.new_clients import NewClients
    from graced.loop.proxies import Proxies
    from graced.sockets.listener import Listener


def build(
    settings: Settings,
    handler: Handler | None,
    claims: Claims,
    mirror: Mirror | None,
    stop: Callable[[], None],
) -> tuple[Server, HandlerParts | None]:
    """Return a server that is not started yet, with the parts of its handler.

    `handler`: None for the built-in echo.  `mirror`: None where a crash may end connections.
    `stop` begins a stop of the service, for its handler to call in any thread.
    Calls the hook `startup`.  Raises `OSError` where the system has no epoll set or eventfd left,
    and `StartError` where the hook has failed, or a thread cannot be started.
    """
    listeners = claims.listeners
    handshaker = _handshaker(claims.context, settings) if claims.context else None
    if not handler:
        return _server(settings, settings.farewell, listeners, mirror, handshaker), None
    # The built-in echo does without these modules: 2 ms of a start.
    from graced.app.handler_parts import HandlerParts  # noqa: PLC0415

    fast = False
    if handler.asynchronous:
        from graced.app import loop_choice  # noqa: PLC0415

        fast = loop_choice.is_fast(settings, handler, listeners)
    parts = HandlerParts(handler, settings.max_handler_threads, stop, fast=fast)
    farewell = handler.farewell
    server = _server(settings, farewell, listeners, mirror, handshaker, **parts.for_server)
    parts.start(server)
    return server, parts


def _server(
    settings: Settings,
    farewell: bytes | None,
    listeners: Sequence[Listener],
    mirror: Mirror | None,
    handshaker: Handshaker | None,
    **for_handler: Any,
) -> Server:
    """A server with the limits of the settings.  `for_handler`: arguments of `Server`."""
    return Server(
        listeners,
        admission=Admission(
            settings.max_clients, settings.max_clients_per_host, _new_clients(settings)
        ),
        policy=Policy(
            farewell=farewell,
            gap=settings.farewell_gap,
            spread=settings.farewell_spread,
            idle_timeout=settings.idle_timeout,
            stall_timeout=settings.stall_timeout,
            log_connections=settings.connections,
            log_probes=settings.probes,
            access=_access(settings),
            proxies=_proxies(settings),
            handshaker=handshaker,
        ),
        mirror=mirror,
        io_threads=settings.io_threads or default_io_threads(),
        **for_handler,
    )


def _access(settings: Settings) -> Access | None:
    """The rules for hosts; None, and no module for them, where there are no rules."""
    if not (settings.allow or settings.deny):
        return None
    from graced.loop.access import Access  # noqa: PLC0415

    return Access(settings.allow, settings.deny, tells=settings.refusal == "tell")


def _proxies(settings: Settings) -> Proxies | None:
    """The hosts that tell the addresses of their clients; None, and no module, where none does."""
    if not settings.proxy_protocol:
        return None
    from graced.loop.proxies import Proxies  # noqa: PLC0415

    return Proxies(settings.proxy_protocol)


def _handshaker(context: SSLContext, settings: Settings) -> Handshaker:
    """The thread that computes the handshakes of TLS, started."""
    from graced.app.certificates import certificate_of  # noqa: PLC0415
    from graced.loop.handshaker import Handshaker  # noqa: PLC0415

    handshaker = Handshaker(context, certificate_of(settings, os.environ))
    start_thread(handshaker)
    return handshaker


def _new_clients(settings: Settings) -> NewClients | None:
    """The limits of the rate of new clients; None, and no module for them, where there are none."""
    rates = settings.max_new_per_second, settings.max_new_per_second_per_host
    if not any(rates):
        return None
    from graced.loop.new_clients import NewClients  # noqa: PLC0415

    return NewClients(*rates)


def default_io_threads() -> int:
    """The default number of I/O threads: 1 under a GIL, else the number of usable processors."""
    has_gil: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
    return 1 if has_gil else len(os.sched_getaffinity(0))
