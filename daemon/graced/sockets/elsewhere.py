"""Connections that have another descriptor in this process: after detach(), dup() or a TLS wrapper.

The kernel gives each socket a cookie (SO_COOKIE of socket(7)) and never gives it again.  With the
cookie the connection is found among all descriptors of the process, when it is needed; until then
no descriptor more is open.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable

SO_COOKIE = 57
_HIGHEST_DESCRIPTOR = 65536
"""Where /proc does not list the descriptors."""


def cookie(sock: socket.socket) -> int:
    """The cookie of a socket; 0 where it is closed or the kernel does not tell."""
    try:
        data = socket.socket.getsockopt(sock, socket.SOL_SOCKET, SO_COOKIE, 8)
    except OSError:
        return 0
    return int.from_bytes(data, "little")


def find(cookies: Container[int]) -> dict[int, socket.socket]:
    """The sockets of this process that have these cookies, as duplicates for the caller."""
    found: dict[int, socket.socket] = {}
    for fd in _descriptors():
        with suppress(OSError):
            # A number may be closed and opened again meanwhile; a duplicate is ours.
            sock = _duplicate(fd)
            number = cookie(sock)
            if number in cookies and number not in found:
                found[number] = sock
            else:
                sock.close()
    return found


def _descriptors() -> Iterable[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return range(_HIGHEST_DESCRIPTOR)


def _duplicate(fd: int) -> socket.socket:
    double = os.dup(fd)
    try:
        return socket.socket(fileno=double)
    except OSError:
        os.close(double)
        raise
