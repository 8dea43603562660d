"""The server that the settings ask for: the values of the settings reach its parts here."""

from __future__ import annotations

from graced.handlers import registry
from graced.handlers.blocking import Blocking
from graced.handlers.hooks import run_hook, run_startup
from graced.handlers.server_view import ServerView
from graced.loop.admission import Admission
from graced.loop.policy import Policy
from graced.server import Server, default_io_threads

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
    Calls the hook `startup`.  Raises `OSError` where the system has no epoll set or eventfd left,
    and `StartError` where the hook has failed.
    """

    def call_restored() -> None:
        if handler:
            run_hook(handler.factory, "restored", view)

    blocking = None
    if handler and registry.blocks(handler):

        def run_handler(request: Any, address: Any) -> None:
            handler.factory(request, address, view)

        blocking = Blocking(
            run_handler,
            greet=handler.greets,
            movable=handler.movable,
            max_threads=settings.max_handler_threads,
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
        streaming=None if registry.blocks(handler) else handler,
        mirror=mirror,
        on_restored=call_restored,
        io_threads=settings.io_threads or default_io_threads(),
    )
    if handler:
        view = view_of(server, handler)
        run_startup(handler.factory, view)
    return server


def view_of(server: Server, handler: Handler) -> ServerView:
    """What the handler finds in ``self.server``, and its hooks get."""
    return ServerView(server, getattr(handler.factory, "server", None))
