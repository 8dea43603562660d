"""Timeouts that the kernel keeps."""

from __future__ import annotations

import socket
import struct

import pytest

from graced.sockets.timeout import set_timeout

LONGEST = 86400.0


@pytest.mark.parametrize(
    ("seconds", "kept"),
    [
        (0.0, 0.0),
        (1e-9, 1e-6),
        (5e-324, 1e-6),
        (0.0000005, 1e-6),
        (0.9999999, 1.0),
        (59.9999999, 60.0),
        (59.9999994, 59.999999),
        (LONGEST - 1e-9, LONGEST),
        (LONGEST, LONGEST),
    ],
)
def test_timeout_is_rounded_to_microseconds_and_never_to_none(seconds: float, kept: float) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        set_timeout(ours, socket.SO_SNDTIMEO, seconds)
        kept_as = ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16)
        # Two numbers of 64 bits, or of 32 on a processor of 32 bits with the old option.
        whole, micro = struct.unpack("qq" if len(kept_as) == 16 else "ll", kept_as)
        # The kernel counts in jiffies, and rounds up.
        assert kept <= whole + micro / 1e6 < kept + 0.011
