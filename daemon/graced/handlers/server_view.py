"""The server as a handler of the daemon sees it: ``self.server``.

A handler that was written for a server of its own asks that server for something: a table of
routes, an application, a flag.  An object with these attributes is the class attribute ``server``
of the handler.

A handler may also ask its server to do something, as servers of `socketserver` can: to end a
connection, to report an exception, or to stop.  A stop is one of the whole service, and is not
waited for, because the service waits for the handler.
"""

from __future__ import annotations

import socket
import sys
from contextlib import suppress

from graced.log import events
from graced.log.event import summary_of
from graced.sockets.address import format_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from threading import Event
    from typing import Any


class ServerView:
    """The attributes of the server, and those of an object that the handler's class names.

    Any thread may call.
    """

    socket_type = socket.SOCK_STREAM

    def __init__(
        self,
        server: Any,
        declared: Any,
        options: Mapping[str, Any],
        state_directory: str | None,
        stop: Callable[[], None],
    ) -> None:
        """`declared`: the object, or None.

        `options`: of the handler.  `state_directory`: an absolute path; None: there is none.
        `stop` begins a stop of the service, and returns at once.
        """
        self._server = server
        self._declared = declared
        self._stop = stop
        self._has_stopped = False
        # Behind those of the object: a handler that does not know graced may mean something else.
        self._own = {
            "options": options,
            "state_directory": state_directory,
            "shutdown": self._shutdown,
            "server_close": self._server_close,
            "shutdown_request": _shutdown_request,
            "close_request": _close_request,
            "handle_error": _handle_error,
        }

    @property
    def draining(self) -> Event:
        """Set when the drain begins."""
        return self._server.draining  # type: ignore[no-any-return]

    @property
    def deadline(self) -> float | None:
        """Monotonic time at which the connection of the handler is closed."""
        return self._server.deadline  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        if not _is_of_socketserver(self._declared, name):
            with suppress(AttributeError):
                return getattr(self._declared, name)
        return self._own[name] if name in self._own else getattr(self._server, name)

    def _shutdown(self) -> None:
        self._stop_once("shutdown")

    def _server_close(self) -> None:
        # Without its listener a server is of no use to anybody but the clients that it has.
        self._stop_once("server_close")

    def _stop_once(self, call: str) -> None:
        """Begin the stop.  A handler may call for each of its clients, and twice."""
        if not self._has_stopped:
            self._has_stopped = True
            events.SHUTDOWN_CALLED(call=call)
            self._stop()


def _is_of_socketserver(declared: Any, name: str) -> bool:
    """Whether the object is a server that was never started, and nobody has written its method.

    Its ``shutdown`` would wait for ever.
    """
    base = sys.modules.get("socketserver")
    if base is None or name != "shutdown" or not isinstance(declared, base.BaseServer):
        return False
    return type(declared).shutdown is base.BaseServer.shutdown


def _shutdown_request(request: socket.socket) -> None:
    """As of `socketserver.TCPServer`: send end of file, and close."""
    with suppress(OSError):
        # The client may have reset the connection.
        request.shutdown(socket.SHUT_WR)
    request.close()


def _close_request(request: socket.socket) -> None:
    request.close()


def _handle_error(_request: Any, client_address: Any) -> None:
    """Log the exception that is being handled."""
    error = sys.exception()
    reason = summary_of(error) if error else "no exception"
    events.HANDLER_FAILED(client=format_address(client_address), reason=reason, exc_info=error)
