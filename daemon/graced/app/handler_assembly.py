"""The server of a handler, with the hooks of its class."""

from __future__ import annotations

from graced.app.assembly import new_server
from graced.handlers.hooks import run_hook, run_startup
from graced.handlers.registry import blocks
from graced.handlers.server_view import ServerView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from graced.app.settings import Settings
    from graced.handlers.registry import Handler
    from graced.handover.mirror import Mirror
    from graced.server import Server
    from graced.sockets.listener import Listener


def build(
    settings: Settings, handler: Handler, listeners: Sequence[Listener], mirror: Mirror | None
) -> Server:
    """See `graced.app.assembly.build`."""

    def run_handler(request: Any, address: Any) -> None:
        handler.factory(request, address, view)

    def call_restored() -> None:
        run_hook(handler.factory, "restored", view)

    kind: dict[str, Any] = {"streaming": handler}
    if blocks(handler):
        from graced.handlers.blocking import Blocking  # noqa: PLC0415

        kind = {
            "blocking": Blocking(
                run_handler,
                greet=handler.greets,
                movable=handler.movable,
                max_threads=settings.max_handler_threads,
            )
        }
    server = new_server(
        settings, handler.farewell, listeners, mirror, on_restored=call_restored, **kind
    )
    view = view_of(server, handler)
    run_startup(handler.factory, view)
    return server


def view_of(server: Server, handler: Handler) -> ServerView:
    """What the handler finds in ``self.server``, and its hooks get."""
    return ServerView(server, getattr(handler.factory, "server", None))
