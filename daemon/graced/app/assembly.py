"""The server that the settings ask for: the values of the settings reach its parts here."""

from __future__ import annotations

from graced.handlers.hooks import run_hook
from graced.loop.admission import Admission
from graced.loop.policy import Policy
from graced.server import Blocking, Server, default_io_threads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from graced.app.settings import Settings
    from graced.handlers.registry import Handler
    from graced.handover.mirror import Mirror
    from graced.sockets.listener import Listener


def build(
    settings: Settings,
    handler: Handler | None,
    listeners: Sequence[Listener],
    mirror: Mirror | None = None,
) -> Server:
    """Return a server that is not started yet.

    `handler`: None for the built-in echo.  `mirror`: None where a crash may end connections.
    Raises `OSError` where the system has no epoll set or eventfd left.
    """
    blocking = None
    if handler:

        def run_handler(request: Any, address: Any) -> None:
            handler.factory(request, address, server)  # type: ignore[arg-type]

        blocking = Blocking(
            run_handler,
            greet=handler.greets,
            movable=handler.movable,
            max_threads=settings.max_handler_threads,
            on_restored=lambda: run_hook(handler.factory, "restored", server),
        )
    server = Server(
        listeners,
        admission=Admission(settings.max_clients, settings.max_clients_per_host),
        policy=Policy(
            farewell=handler.farewell if handler else settings.farewell,
            gap=settings.farewell_gap,
            idle_timeout=settings.idle_timeout,
            stall_timeout=settings.stall_timeout,
            log_connections=settings.connections,
            log_probes=settings.probes,
        ),
        blocking=blocking,
        mirror=mirror,
        io_threads=settings.io_threads or default_io_threads(),
    )
    return server
