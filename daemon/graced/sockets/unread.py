"""The bytes that have arrived at a socket and that nobody has read: FIONREAD of tcp(7), unix(7)."""

from __future__ import annotations

import sys
from fcntl import ioctl
from termios import FIONREAD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket


def unread(sock: socket) -> int:
    """Their number; 0 of a socket that is closed.  Any thread may call."""
    count = bytearray(4)
    try:
        ioctl(sock, FIONREAD, count)
    except (OSError, ValueError):
        return 0
    return int.from_bytes(count, sys.byteorder)
