"""Listening sockets that keep a start from an address: for a check before the start.

The address of a running service is in use, by that service, and the next start inherits the
socket or finds the address free.  Any other listening socket would refuse the start.  The kernel
lists listening sockets by inode (proc(5): net/tcp, net/tcp6, net/unix), and the descriptors of a
process too (/proc/PID/fd).
"""

from __future__ import annotations

import os
import re
import socket
import sys
from contextlib import suppress

from graced.errors import ConfigError, UnresolvedError
from graced.sockets.address import real_path
from graced.sockets.binding import check_is_no_broadcast
from graced.sockets.resolver import is_name, socket_addresses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from graced.sockets.address import Address

_LISTENING = "0A"
"""TCP_LISTEN, include/net/tcp_states.h."""
_ACCEPTS = 0x10000
"""__SO_ACCEPTCON, the flag of a listening Unix socket."""
_READINGS = 2
"""Of a table.  The kernel gives a page at a time, and a socket that is closed in between makes it
leave out another: 4 of 22,446 readings had no line of a socket that was there all the time."""
_ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}  # noqa: S104


def sockets_of(pid: int) -> frozenset[int] | None:
    """The inodes of the sockets of a process; None if this process may not read that."""
    directory = f"/proc/{pid}/fd"
    found = set()
    try:
        for name in os.listdir(directory):
            # A descriptor may be closed since.
            with suppress(FileNotFoundError):
                target = os.readlink(f"{directory}/{name}")
                if match := re.fullmatch(r"socket:\[(\d+)\]", target):
                    found.add(int(match[1]))
    except OSError:
        # The user of the process may list the descriptors, but not read them where the process
        # is in a user namespace of its own (PrivateUsers=).
        return None
    return frozenset(found)


def listening_at(family: int, host: str, port: int) -> set[int]:
    """The inodes of TCP sockets that keep others from listening there."""
    found = {
        inode
        for its_host, its_port, inode in _listening(family)
        if its_port == port and _overlap(family, host, its_host)
    }
    if not found and family == socket.AF_INET:
        # A socket for IPv6 may be one for IPv4 as well.
        found = {
            inode
            for its_host, its_port, inode in _listening(socket.AF_INET6)
            if its_port == port and its_host == _ANY[socket.AF_INET6]
        }
    return found


def listening_at_path(path: str) -> set[int]:
    """The inodes of Unix sockets that listen there."""
    found = set()
    place = real_path(path)
    for fields in _table("unix", 7):
        # Abstract names and relative paths are none of ours.  Directories of others are not looked
        # at without need: one may be on a network that does not answer.
        if len(fields) < 8 or not _may_be(fields[7], place):
            continue
        try:
            flags, inode = int(fields[3], 16), int(fields[6])
        except ValueError:
            # A path may have a line break, and what follows is whatever its owner likes.
            continue
        if flags & _ACCEPTS and real_path(fields[7]) == place:
            found.add(inode)
    return found


def _may_be(path: str, place: str) -> bool:
    return path.startswith("/") and os.path.basename(path) == os.path.basename(place)


def refuse_overlaps(
    addresses: Sequence[Address], agent: Address | None = None, *, resolve: bool = True
) -> None:
    """Raise `ConfigError` if two addresses, that of the agent included, cannot be listened on.

    `resolve`: whether to look at host names, which may take a while.
    """
    taken: list[tuple[Address, int, str, int]] = []
    for address in (*addresses, agent) if agent else addresses:
        if not resolve and is_name(address):
            continue
        try:
            found = socket_addresses(address)
        except UnresolvedError:
            continue
        mine: list[tuple[Address, int, str, int]] = []
        for family, (place, *rest) in found:
            host = real_path(address.path) if address.path else str(place)
            # A link-local address may be that of several interfaces (RFC 4007).
            scope = int(str(rest[2])) if family == socket.AF_INET6 else 0
            for other, its_family, its_host, its_scope in taken:
                same_port = address.path or (address.port and address.port == other.port)
                same_scope = scope == its_scope or not (scope and its_scope)
                same_place = family == its_family and same_scope and same_port
                if same_place and _overlap(family, host, its_host):
                    key = "server.agent" if address is agent else "server.listen"
                    raise ConfigError(
                        f"{key}: {address} and {other} overlap, only one can be listened on"
                    )
            mine.append((address, family, host, scope))
        taken += mine


def _overlap(family: int, one: str, other: str) -> bool:
    return one == other or _ANY.get(socket.AddressFamily(family)) in {one, other}


def _listening(family: int) -> Iterator[tuple[str, int, int]]:
    """Host, port and inode of each listening TCP socket of a family."""
    for fields in _table("tcp" if family == socket.AF_INET else "tcp6", 11):
        if fields[3] == _LISTENING:
            host, port = fields[1].split(":")
            words = [
                int(host[n : n + 8], 16).to_bytes(4, sys.byteorder) for n in range(0, len(host), 8)
            ]
            yield socket.inet_ntop(family, b"".join(words)), int(port, 16), int(fields[9])


def _table(name: str, columns: int) -> Iterator[list[str]]:
    """The lines of a table of the kernel, most of them twice; none if it cannot be read."""
    path = f"/proc/self/net/{name}"
    with suppress(OSError):
        for _ in range(_READINGS):
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                next(file, None)
                for line in file:
                    yield line.rstrip("\n").split(maxsplit=columns)


def try_to_bind(address: Address, family: int, place: tuple[Any, ...]) -> None:
    """Bind a socket there and close it.  Without listen(2) no other socket is hindered.

    Raises `OSError`.
    """
    host, _, *scope = place
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, address.port, *scope))
        check_is_no_broadcast(family, str(host))
