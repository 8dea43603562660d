"""Timeouts of reads and writes that the kernel keeps: SO_RCVTIMEO and SO_SNDTIMEO of socket(7)."""

from __future__ import annotations

import socket
import struct

_FIRST_OF_64_BITS = 66
"""SO_RCVTIMEO_NEW of asm-generic/socket.h: options from this number on take 64-bit times."""
_MICROSECONDS = 1_000_000


def set_timeout(sock: socket.socket, option: int, seconds: float) -> None:
    """Set SO_RCVTIMEO or SO_SNDTIMEO; 0: no timeout.  Raises `OSError`."""
    # Rounded before the division: no second may have a million microseconds (EDOM).  And never to
    # zero, which would be no timeout.
    microseconds = max(round(seconds * _MICROSECONDS), 1) if seconds else 0
    format = "qq" if option >= _FIRST_OF_64_BITS else "ll"
    timeval = struct.pack(format, *divmod(microseconds, _MICROSECONDS))
    sock.setsockopt(socket.SOL_SOCKET, option, timeval)
