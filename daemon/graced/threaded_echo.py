"""The second built-in handler: the echo with a thread for each client, for comparison."""

from __future__ import annotations

from socketserver import BaseRequestHandler

CHUNK = 65536


class EchoHandler(BaseRequestHandler):
    """RFC 862 with a thread for each client, as in `socketserver`'s own example."""

    def handle(self) -> None:
        while data := self.request.recv(CHUNK):
            self.request.sendall(data)

    def save(self) -> bytes:
        """Between two messages there is nothing to remember."""
        return b""

    def restore(self, state: bytes) -> None:
        """Go on with the next message."""
