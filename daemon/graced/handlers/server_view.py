"""What a handler of the daemon finds in ``self.server``.

A handler that was written for a server of its own asks that server for something: a table of
routes, an application, a flag.  The class attribute ``server`` of the handler has it.
"""

from __future__ import annotations

import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from threading import Event
    from typing import Any


class ServerView:
    """The attributes of the server, and those of an object that the handler's class names."""

    socket_type = socket.SOCK_STREAM

    def __init__(self, server: Any, declared: Any) -> None:
        """`declared`: the object, or None."""
        self._server = server
        self._declared = declared

    @property
    def draining(self) -> Event:
        """Set when the drain begins."""
        return self._server.draining  # type: ignore[no-any-return]

    @property
    def deadline(self) -> float | None:
        """Monotonic time at which the connection of the handler is closed."""
        return self._server.deadline  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(self._declared, name)
        except AttributeError:
            return getattr(self._server, name)
