"""A snapshot: the state of clients as bytes, for the next process.

A socket does not show who the client is, which bytes are unsent, when the client came and how many
bytes were echoed; the snapshot does.  The kernel gives each socket a cookie and never gives it
again (socket(7), SO_COOKIE), which matches a socket with its state.  Times are monotonic, by the
same clock for all processes until the next boot.

The counts of the process follow the clients, then the name of the handler, then the numbers of
probes and of refused clients, then the size of each client's PROXY header, then further counts with
their names.  A reader of release 0.1 ignores bytes there, and a snapshot of release 0.1 ends before
them, so either release reads a snapshot of the other.
"""

from __future__ import annotations

import struct

from graced.loop.client import Client, behind_proxy
from graced.sockets.address import plain_host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from socket import socket
    from typing import Any

    Counts = tuple[int, int, int, int]
    """Clients admitted, bytes echoed, probes and clients refused, by all processes so far."""

SO_COOKIE = 57
"""asm-generic/socket.h; Python has no name for it."""
_SOL_SOCKET = 1
_MAGIC = b"graced clients 1\n"
"""Ends in the version; no other version is read."""
_HEAD = struct.Struct("=dI")
"""frozen, clients"""
_CLIENT = struct.Struct("=QddQQHIi")
"""cookie, since, last, echoed, port, bytes of the host, bytes unsent, bytes that the handler has
saved or -1"""
_COUNTS = struct.Struct("=QQ")
"""clients admitted, bytes echoed"""
_NAME = struct.Struct("=H")
"""bytes of the name of the handler, or of a further count; the number of further counts"""
_COUNT = struct.Struct("=Q")
"""probes; clients refused; a further count"""


_HEADER = struct.Struct("=H")
"""bytes of the header of the PROXY protocol that came before a client's own"""


class SnapshotError(Exception):
    """A snapshot is of another version, or damaged."""


class Snapshot:
    """The clients and counts that were read from a snapshot."""

    __slots__ = ("clients", "counts", "frozen", "handler", "tallies")

    def __init__(
        self,
        frozen: float,
        clients: list[Client],
        counts: Counts,
        handler: str | None = None,
        tallies: dict[str, int] | None = None,
    ) -> None:
        self.frozen = frozen
        """Monotonic time from which on no process has served the clients."""
        self.clients = clients
        """The clients whose sockets are there."""
        self.counts = counts
        """See `Counts`."""
        self.handler = handler
        """The handler that the clients have talked to; None: the last process has not said."""
        self.tallies = tallies or {}
        """Further counts by name, see `graced.process.tallies`."""


def cookie(sock: socket) -> int:
    """The cookie of a socket.  Raises `OSError`."""
    return int.from_bytes(sock.getsockopt(_SOL_SOCKET, SO_COOKIE, 8), "little")


def encode(
    clients: Iterable[Client],
    frozen: float,
    counts: Counts,
    handler: str = "",
    tallies: Mapping[str, int] | None = None,
) -> bytes:
    """Write a snapshot; the arguments are as in `Snapshot`.  Raises `OSError`."""
    parts = []
    headers = []
    for client in clients:
        headers.append(client.header)
        host = client.host.encode("utf-8", "surrogateescape")
        parts += [
            _CLIENT.pack(
                cookie(client.sock),
                client.since,
                client.last,
                client.echoed,
                client.port,
                len(host),
                len(client.unsent),
                -1 if client.saved is None else len(client.saved),
            ),
            host,
            client.unsent,
            client.saved or b"",
        ]
    head = _HEAD.pack(frozen, len(parts) // 4)
    tail = [_COUNTS.pack(*counts[:2]), *_named(handler)]
    tail += [_COUNT.pack(count) for count in counts[2:]]
    tail += [_HEADER.pack(size) for size in headers]
    tallies = tallies or {}
    tail.append(_NAME.pack(len(tallies)))
    for name, count in tallies.items():
        tail += [*_named(name), _COUNT.pack(count)]
    return b"".join([_MAGIC, head, *parts, *tail])


def _named(name: str) -> tuple[bytes, bytes]:
    data = name.encode("utf-8", "surrogateescape")
    return _NAME.pack(len(data)), data


class _Reader:
    """Takes bytes off the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def at_end(self) -> bool:
        """Whether all bytes are taken."""
        return self._position == len(self._data)

    def take(self, size: int) -> bytes:
        """Take `size` bytes.  Raises `SnapshotError`."""
        taken = self._data[self._position : self._position + size]
        self._position += size
        if len(taken) != size:
            raise SnapshotError("it is cut off")
        return taken

    def unpack(self, format: struct.Struct) -> tuple[Any, ...]:
        """Take the values of a struct.  Raises `SnapshotError`."""
        return format.unpack(self.take(format.size))

    def name(self) -> str:
        """Take a name.  Raises `SnapshotError`."""
        (size,) = self.unpack(_NAME)
        return self.take(size).decode("utf-8", "surrogateescape")


def decode(data: bytes, sockets: Iterable[socket], phase: int) -> Snapshot:
    """Read a snapshot; `sockets` are those of the clients.  Raises `SnapshotError`."""
    if not data.startswith(_MAGIC):
        raise SnapshotError("it is empty, or of another version")
    by_cookie = {cookie(sock): sock for sock in sockets}
    reader = _Reader(data[len(_MAGIC) :])
    frozen, number = reader.unpack(_HEAD)
    everybody: list[Client | None] = []
    counts = (number, 0, 0, 0)
    for _ in range(number):
        key, since, last, echoed, port, host_size, unsent_size, saved_size = reader.unpack(_CLIENT)
        # A release 0.1 has written an IPv4 client of a dual-stack socket in the notation of IPv6.
        host = plain_host(reader.take(host_size).decode("utf-8", "surrogateescape"))
        unsent = reader.take(unsent_size)
        saved = None if saved_size < 0 else reader.take(saved_size)
        counts = (number, counts[1] + echoed, 0, 0)
        client = None
        if key in by_cookie:
            client = Client(by_cookie[key], host, port, phase, since)
            client.last, client.echoed, client.unsent, client.saved = last, echoed, unsent, saved
            # Maybe it was not logged yet; of the clients of a crash nothing is known.
            client.unheard = last == since and not (echoed or unsent)
        everybody.append(client)
    if not reader.at_end:
        admitted, total = reader.unpack(_COUNTS)
        counts = (admitted, total, 0, 0)
    handler = None
    if not reader.at_end:
        handler = reader.name()
    if not reader.at_end:
        counts = (*counts[:2], *reader.unpack(_COUNT), 0)
    if not reader.at_end:
        counts = (*counts[:3], *reader.unpack(_COUNT))
    if not reader.at_end:
        for place, client in enumerate(everybody):
            (header,) = reader.unpack(_HEADER)
            if client:
                everybody[place] = behind_proxy(client, header)
    tallies: dict[str, int] = {}
    if not reader.at_end:
        (number,) = reader.unpack(_NAME)
        for _ in range(number):
            name = reader.name()
            (tallies[name],) = reader.unpack(_COUNT)
    clients = [client for client in everybody if client]
    return Snapshot(frozen, clients, counts, handler, tallies)
