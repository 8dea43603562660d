"""An echo server as one would write it with socketserver: threading_echo.py PORT.

It logs nothing, and on SIGTERM it dies: socketserver has no farewell.
"""

from __future__ import annotations

import socketserver
import sys


class Echo(socketserver.BaseRequestHandler):
    """One client."""

    def handle(self) -> None:
        while data := self.request.recv(65536):
            self.request.sendall(data)


class Server(socketserver.ThreadingTCPServer):
    """A thread per client."""

    allow_reuse_address = True
    daemon_threads = True


with Server(("127.0.0.1", int(sys.argv[1])), Echo) as server:
    server.serve_forever()
