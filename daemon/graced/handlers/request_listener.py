"""The listener of a program: clients come by the methods that a `socketserver` class overrides."""

from __future__ import annotations

import errno
import select
import socket

from graced.sockets.address import format_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socketserver
    from collections.abc import Callable
    from typing import Any
    from weakref import WeakKeyDictionary

    Arrival = tuple[Any, float | None]
    """The address of a client, which may be any object, and the timeout of its request."""


class RequestListener:
    """The listening socket of a server, whose overridable methods accept the clients."""

    passed = False
    fallible = True

    def __init__(
        self,
        server: socketserver.TCPServer,
        own: Callable[[Any], Any],
        arrivals: WeakKeyDictionary[Any, Arrival],
    ) -> None:
        """Take the listening socket of `server`.

        `own` returns the socket to use for a request.  `arrivals` takes what `get_request` has
        decided.
        """
        self._server = server
        self._own = own
        self._arrivals = arrivals
        self.sock = server.socket
        self.name = format_address(server.server_address)

    def refuse_connections(self) -> float:
        """Do nothing: the program owns the socket, and may serve again."""
        return 0.0

    def _has_client(self) -> bool:
        """Whether a client waits to be accepted.

        As in `socketserver`, `get_request` is not called otherwise: the method may report each
        `OSError`, or try again until there is a client.
        """
        if self.sock.fileno() < 0:
            # The program has closed its server, and shuts down later.
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept and verify a client.  Raises `OSError`."""
        server = self._server
        if not self._has_client():
            raise BlockingIOError
        request: Any
        request, address = server.get_request()
        request = self._own(request)
        if not isinstance(request, socket.socket):
            name = f"{type(server).__qualname__}.get_request()"
            raise TypeError(f"{name} must return a socket.socket, not {request!r}")
        try:
            if server.verify_request(request, address):
                self._arrivals[request] = address, request.gettimeout()
                return request, address if _is_usual(address) else None
        except Exception:
            server.handle_error(request, address)
        except BaseException:
            server.shutdown_request(request)
            raise
        server.shutdown_request(request)
        raise ConnectionAbortedError(errno.ECONNABORTED, "turned down by verify_request")


def _is_usual(address: Any) -> bool:
    """Whether an address is one of accept(2), with a host and a port, and fit for the log."""
    return isinstance(address, tuple) and len(address) > 1 and isinstance(address[0], str)
