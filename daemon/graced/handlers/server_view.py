"""The server as a handler of the daemon sees it: ``self.server``.

A handler that was written for a server of its own asks that server for something: a table of
routes, an application, a flag.  An object with these attributes is the class attribute ``server``
of the handler.
"""

from __future__ import annotations

import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from threading import Event
    from typing import Any


class ServerView:
    """The attributes of the server, and those of an object that the handler's class names."""

    socket_type = socket.SOCK_STREAM

    def __init__(
        self,
        server: Any,
        declared: Any,
        options: Mapping[str, Any],
        state_directory: str | None,
    ) -> None:
        """`declared`: the object, or None.

        `options`: of the handler.  `state_directory`: an absolute path; None: there is none.
        """
        self._server = server
        self._declared = declared
        # Behind those of the object: a handler that does not know graced may mean something else.
        self._own = {"options": options, "state_directory": state_directory}

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
            return self._own[name] if name in self._own else getattr(self._server, name)
