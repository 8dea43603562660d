"""An interface is deleted and created anew while graced serves its link-local address.

To be run as root of a network namespace of its own, by `test_moving_addresses`.
"""

from __future__ import annotations

import fcntl
import socket
import struct

from support import PATIENCE, Client, Graced

NAME = "moving0"
PEER = "veth0"
"""The other end, which the kernel creates and names."""
ADDRESS = "fe80::77"
PORT = 9999

REQUEST_AND_ACKNOWLEDGE = 0x5
CREATE = 0x600
NEW_LINK, DELETE_LINK = 16, 17
IFLA_IFNAME, IFLA_LINKINFO, IFLA_INFO_KIND = 3, 18, 1
"""rtnetlink(7), linux/if_link.h."""
NEW_ADDRESS, IFA_ADDRESS, IFA_LOCAL, IFA_F_NODAD = 20, 1, 2, 2
SIOCSIFFLAGS, IFF_UP = 0x8914, 1


def attribute(number: int, data: bytes) -> bytes:
    packed = struct.pack("=HH", 4 + len(data), number) + data
    return packed + bytes(-len(packed) % 4)


def link(index: int) -> bytes:
    """What a message about an interface begins with."""
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0)


def ask(kind: int, flags: int, body: bytes) -> None:
    """Send one message of rtnetlink(7), and read the acknowledgement."""
    head = struct.pack("=IHHII", 16 + len(body), kind, REQUEST_AND_ACKNOWLEDGE | flags, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.send(head + body)
        (error,) = struct.unpack_from("=i", netlink.recv(4096), 16)
        if error:
            raise OSError(-error, "rtnetlink")


def create() -> int:
    """Create the interface, give it the address, and return its number."""
    kind = attribute(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, b"veth\0"))
    ask(NEW_LINK, CREATE, link(0) + attribute(IFLA_IFNAME, NAME.encode() + b"\0") + kind)
    number = socket.if_nametoindex(NAME)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for name in ("lo", NAME, PEER):
            fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), IFF_UP))
    address = socket.inet_pton(socket.AF_INET6, ADDRESS)
    # Else nobody may use the address until it is known to be unique.
    body = struct.pack("=BBBBI", socket.AF_INET6, 64, IFA_F_NODAD, 0, number)
    body += attribute(IFA_LOCAL, address) + attribute(IFA_ADDRESS, address)
    ask(NEW_ADDRESS, CREATE, body)
    return number


def connect(number: int) -> Client:
    sock = socket.socket(socket.AF_INET6)
    sock.settimeout(PATIENCE)
    sock.connect((ADDRESS, PORT, 0, number))
    return Client(sock)


def main() -> None:
    first = create()
    quick = ("--handler", "support.faulty:QuickLookHandler")
    with Graced(*quick, listen=f"[{ADDRESS}%{NAME}]:{PORT}") as graced:
        with connect(first) as client:
            client.echo(b"before")
        ask(DELETE_LINK, 0, link(first))
        second = create()
        assert second != first
        graced.log.wait_for(r"^<6>no longer listening on .*: its interface has gone$")
        with connect(second) as client:
            client.echo(b"after")
        assert graced.stop() == 0


if __name__ == "__main__":
    main()
