"""One connection of a model to the server: what every kind of client of the models does."""

from __future__ import annotations

import socket
import struct
import time


class Connection:
    """A client that never waits; the times are monotonic."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.sent = 0
        self.received = bytearray()
        self.reads = True
        self.writes = True
        self.gone = False
        """The client has closed or reset the connection, and expects nothing any more."""
        self.ended = ""
        """How the server closed: ``end`` or ``reset``."""
        self.left_at = 0.0
        """When the client or the server closed."""

    @property
    def here(self) -> bool:
        """Whether anything may still come."""
        return not (self.gone or self.ended)

    def read(self) -> None:
        """Take all that is there."""
        while self.reads and self.here:
            try:
                data = self.sock.recv(1 << 20)
            except BlockingIOError:
                return
            except ConnectionError:
                self._end("reset")
                return
            if not data:
                self._end("end")
                return
            self.received += data

    def _end(self, how: str) -> None:
        self.ended = how
        self.left_at = time.monotonic()
        self.sock.close()

    def half_close(self) -> None:
        """Send no more."""
        raise NotImplementedError

    def close(self) -> None:
        """Close, whatever may still be coming."""
        self.gone = True
        self.left_at = time.monotonic()
        self.sock.close()

    def reset(self) -> None:
        """Break off, with a RST where the kind of socket has one."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()
