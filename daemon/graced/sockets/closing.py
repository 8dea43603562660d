"""How a connection comes to its end."""

from __future__ import annotations

import select
import socket
import time
from contextlib import suppress

LINGER = 1.0
"""Seconds that a client which was told has to close before its descriptor goes."""


def is_at_its_end(request: socket.socket) -> bool:
    """Whether the other side has said its last word, and all of it has been read."""
    poll = select.poll()
    try:
        poll.register(request, select.POLLIN)
        # A read would wait for the handler's timeout, whatever its flags say.
        flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
        return bool(poll.poll(0)) and not socket.socket.recv(request, 1, flags)
    except BlockingIOError:
        return False
    except (OSError, ValueError):
        # Broken, or closed by its handler.
        return True


def end_one_way(request: socket.socket) -> None:
    """Say that nothing more will come."""
    with suppress(OSError):
        request.shutdown(socket.SHUT_WR)


def end_both_ways(request: socket.socket) -> None:
    """Say so, and hear nothing any more: who waits in a read finds the end."""
    try:
        request.shutdown(socket.SHUT_RDWR)
    except OSError:
        # The client or the handler was faster.
        return


def linger(request: socket.socket) -> None:
    """Read to the client's end: closing with unread data would destroy the farewell (RST)."""
    deadline = time.monotonic() + LINGER
    try:
        request.shutdown(socket.SHUT_WR)
        while (left := deadline - time.monotonic()) > 0:
            request.settimeout(left)
            if not socket.socket.recv(request, 65536):
                return
    except OSError:
        # Gone, or not closing: nothing more can be done for it.
        return
