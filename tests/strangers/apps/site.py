"""A web site by http.server."""

from __future__ import annotations

import os
from http.server import SimpleHTTPRequestHandler
from typing import Any

from strangers import gate
from strangers.apps import QUICK, checksum, paused


class Site(SimpleHTTPRequestHandler):
    """Files of a directory, and some pages that are made on request."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, directory=os.environ["STRANGERS_SITE"])

    def do_GET(self) -> None:
        if self.path == "/slow":
            gate.wait()
            self._answer(QUICK)
        elif self.path == "/paused":
            self.send_response(200)
            self.send_header("Content-Length", str(2 * len(QUICK)))
            self.end_headers()
            self.wfile.writelines(paused())
        elif self.path == "/quick":
            self._answer(QUICK)
        else:
            super().do_GET()

    def do_POST(self) -> None:
        self._answer(checksum(self.rfile.read(int(self.headers["Content-Length"]))).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class KeepAliveSite(Site):
    """The same with persistent connections."""

    protocol_version = "HTTP/1.1"


class BufferedSite(KeepAliveSite):
    """Whose answers are sent when they are complete, or when a buffer is full."""

    wbufsize = -1
