"""The end of a connection, without a reset where possible."""

from __future__ import annotations

import select
import socket
import time

LINGER_TIMEOUT = 1.0
"""Seconds in which a client that has the farewell can close before its descriptor is closed."""


def is_at_its_end(request: socket.socket) -> bool:
    """Whether the client has sent end of file and all bytes before it have been read.

    A connection that is broken, or was closed by the handler, is at the end too.
    """
    poll = select.poll()
    try:
        poll.register(request, select.POLLIN)
        # A read would wait for the handler's timeout, whatever its flags say.
        flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
        return bool(poll.poll(0)) and not socket.socket.recv(request, 1, flags)
    except BlockingIOError:
        return False
    except (OSError, ValueError):
        return True


def end_one_way(request: socket.socket) -> None:
    """Send end of file."""
    try:
        request.shutdown(socket.SHUT_WR)
    except OSError:
        # ENOTCONN, EBADF: the client or the handler was faster, nobody waits for end of file.
        return


def end_both_ways(request: socket.socket) -> None:
    """Send end of file and read nothing more: a thread that waits in a read finds the end."""
    try:
        request.shutdown(socket.SHUT_RDWR)
    except OSError:
        # ENOTCONN, EBADF: the client or the handler was faster.
        return


def linger(request: socket.socket) -> None:
    """Send end of file, then read to the client's end, for `LINGER_TIMEOUT` at most.

    Closing with unread input would destroy the farewell (RST).
    """
    deadline = time.monotonic() + LINGER_TIMEOUT
    try:
        request.shutdown(socket.SHUT_WR)
        while (remaining := deadline - time.monotonic()) > 0:
            request.settimeout(remaining)
            if not socket.socket.recv(request, 65536):
                return
    except OSError:
        # The client has gone, or does not close: nothing more can be done for it.
        return
