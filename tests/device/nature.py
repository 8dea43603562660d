"""What nature does to the network of a device; to be called inside of it."""

from __future__ import annotations

import fcntl
import socket
import struct

LATE_ADDRESS = "192.0.2.77"
ALIAS = b"lo:1"
SIOCSIFFLAGS, SIOCSIFADDR = 0x8914, 0x8916
"""netdevice(7): an address of an alias comes with the one, and goes with the other."""


def add_alias() -> None:
    """Give the loopback interface one more address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        address = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(LATE_ADDRESS))
        fcntl.ioctl(control, SIOCSIFADDR, struct.pack("16s24s", ALIAS, address))


def remove_alias() -> None:
    """Take the address away."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16s24x", ALIAS))


def deaf_resolver() -> socket.socket:
    """A name server that answers nothing."""
    deaf = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    deaf.bind(("127.0.0.99", 53))
    return deaf
