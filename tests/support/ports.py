"""Ports that a test names before anything listens there."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A TCP port that no other test is given meanwhile, on each IPv4 address of this host.

    The socket that keeps it does not listen, so whoever sets SO_REUSEADDR can bind to the port
    (socket(7)).
    """
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", 0))
        yield sock.getsockname()[1]
