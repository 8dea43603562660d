"""An agent check, as HAProxy makes it."""

from __future__ import annotations

import socket

from support.log import PATIENCE


def ask(port: int, send: bytes = b"") -> bytes:
    """What the agent at the port of this machine answers; `send`: what it is sent before."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        if send:
            sock.sendall(send)
        return read(sock)


def read(sock: socket.socket) -> bytes:
    """All that comes until the other side ends its output."""
    found = b""
    while data := sock.recv(4096):
        found += data
    return found
