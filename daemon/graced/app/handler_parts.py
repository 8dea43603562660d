"""The parts of a server that a handler needs, and the hooks of its class."""

from __future__ import annotations

import os
from functools import partial

from graced.handlers.hooks import run_hook, run_startup
from graced.handlers.registry import blocks
from graced.handlers.server_view import ServerView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.handlers.registry import Handler
    from graced.server import Server


class HandlerParts:
    """The arguments of a server for one handler, and the calls of its hooks.  Main thread only."""

    def __init__(
        self, handler: Handler, max_threads: int, stop: Callable[[], None], *, fast: bool = False
    ) -> None:
        """`max_threads`: of blocking handlers that run at once.  `fast`: on uvloop's loop.

        `stop` begins a stop of the service; any thread may call.
        """
        self._handler = handler
        self._stop = stop
        self._view: ServerView | None = None
        self.for_server: dict[str, Any] = {"on_restored": self._call_restored}
        """Arguments of `Server`."""
        if handler.asynchronous:
            from graced.aio.parts import asynchronous  # noqa: PLC0415

            self.for_server["blocking"] = asynchronous(handler, self._deadline, fast=fast)
        elif blocks(handler):
            from graced.handlers.blocking import Blocking  # noqa: PLC0415
            from graced.handlers.greeting import Greeting  # noqa: PLC0415

            self.for_server["blocking"] = Blocking(
                self._run,
                greet=Greeting(handler.greets, handler.name),
                movable=handler.movable,
                max_threads=max_threads,
            )
        else:
            self.for_server["streaming"] = handler

    def start(self, server: Server) -> None:
        """Call the hook `startup`.  Raises `StartError` where the hook has failed."""
        self._view = self._view_of(server)
        event_loop = server.pool and server.pool.event_loop
        # On the loop, where the hook can create a task.
        call = event_loop.call if event_loop else _call
        call(partial(run_startup, self._handler.factory, self._view))

    def call_shutdown(self) -> None:
        """Call the hook `shutdown`, after the last client.  Any thread may call."""
        run_hook(self._handler.factory, "shutdown", self._view)

    def _deadline(self) -> float | None:
        return self._view.deadline if self._view else None

    def _run(self, request: Any, address: Any) -> None:
        self._handler.factory(request, address, self._view)

    def _call_restored(self) -> None:
        run_hook(self._handler.factory, "restored", self._view)

    def _view_of(self, server: Server) -> ServerView:
        """The object that a handler finds in ``self.server``, and that all hooks get."""
        declared = getattr(self._handler.factory, "server", None)
        # systemd.exec(5): one path, unless somebody has added others to the unit.
        states = os.environ.get("STATE_DIRECTORY", "").split(":")
        return ServerView(server, declared, self._handler.options, states[0] or None, self._stop)


def _call(function: Callable[[], None]) -> None:
    function()
