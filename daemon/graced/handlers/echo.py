"""The handler ``echo-threaded``: the echo service with a thread for each client.

The handler is for comparison with ``echo``, which the I/O threads serve without a handler.
"""

from __future__ import annotations

from socketserver import BaseRequestHandler

SMALL_BUFFER = 4 * 1024
LARGE_BUFFER = 64 * 1024
"""Bytes read at once.  A client that fills the small buffer gets the large buffer for good."""


class EchoHandler(BaseRequestHandler):
    """RFC 862 with a thread for each client.

    The handler reads into one buffer.  ``recv(65536)``, as in the examples of `socketserver`, makes
    malloc find 64 KiB for each message, and a hundred threads at once lose up to a third of their
    round trips.
    """

    greets = False

    def handle(self) -> None:
        sock = self.request
        size = SMALL_BUFFER
        buffer = memoryview(bytearray(size))
        while received := sock.recv_into(buffer):
            sock.sendall(buffer[:received])
            if received == size < LARGE_BUFFER:
                size = LARGE_BUFFER
                buffer = memoryview(bytearray(size))

    def save(self) -> bytes:
        """Return no state: between two messages an echo has none."""
        return b""

    def restore(self, state: bytes) -> None:
        """Go on with the next message."""
