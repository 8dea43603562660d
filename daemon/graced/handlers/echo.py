"""The second built-in handler: the echo with a thread for each client, for comparison."""

from __future__ import annotations

from socketserver import BaseRequestHandler

SMALL = 4 * 1024
LARGE = 64 * 1024
"""Bytes read at once.  A client that fills the small buffer gets the large one for good."""


class EchoHandler(BaseRequestHandler):
    """RFC 862 with a thread for each client.

    It reads into a buffer that it keeps: ``recv(65536)``, as in `socketserver`'s own example, has
    malloc find as much for every message, which costs a hundred threads at once up to a third of
    what they could echo.
    """

    def handle(self) -> None:
        sock = self.request
        size = SMALL
        buffer = memoryview(bytearray(size))
        while received := sock.recv_into(buffer):
            sock.sendall(buffer[:received])
            if received == size < LARGE:
                size = LARGE
                buffer = memoryview(bytearray(size))

    def save(self) -> bytes:
        """Between two messages there is nothing to remember."""
        return b""

    def restore(self, state: bytes) -> None:
        """Go on with the next message."""
