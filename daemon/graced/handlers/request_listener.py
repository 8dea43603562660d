"""The listener of a program: clients come by the methods that a `socketserver` class overrides."""

from __future__ import annotations

import errno

from graced.sockets.address import format_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    import socketserver
    from collections.abc import Callable
    from typing import Any
    from weakref import WeakKeyDictionary


class RequestListener:
    """The listening socket of a server, whose overridable methods accept the clients."""

    passed = False
    fallible = True

    def __init__(
        self,
        server: socketserver.TCPServer,
        own: Callable[[Any], Any],
        timeouts: WeakKeyDictionary[Any, float],
    ) -> None:
        """Take the listening socket of `server`.

        `own` returns the socket to use for a request.  `timeouts` takes the timeout, in seconds, of
        each request that has one.
        """
        self._server = server
        self._own = own
        self._timeouts = timeouts
        self.sock = server.socket
        self.name = format_address(server.server_address)

    def refuse_connections(self) -> float:
        """Do nothing: the program owns the socket, and may serve again."""
        return 0.0

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept and verify a client.  Raises `OSError`."""
        server = self._server
        if self.sock.fileno() < 0:
            # The program has closed its server, and shuts down later.
            raise BlockingIOError
        request: Any
        request, address = server.get_request()
        request = self._own(request)
        try:
            if server.verify_request(request, address):
                timeout = request.gettimeout()
                if timeout is not None:
                    self._timeouts[request] = timeout
                return request, address
        except Exception:
            server.handle_error(request, address)
        server.shutdown_request(request)
        raise ConnectionAbortedError(errno.ECONNABORTED, "turned down by verify_request")
