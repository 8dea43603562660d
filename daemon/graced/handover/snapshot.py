"""The state of clients as bytes, for the next start of the server.

What cannot be seen in a socket itself is in here: who the client is, what is unsent, since when it
is there, and how many bytes it has had.  A socket and its state find each other by the cookie that
the kernel gives to each socket and never gives again (socket(7), SO_COOKIE).  Times are monotonic,
which is the same clock for all processes until the next boot.
"""

from __future__ import annotations

import struct

from graced.loop.client import Client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from socket import socket
    from typing import Any

SO_COOKIE = 57
"""asm-generic/socket.h; Python has no name for it."""
_SOL_SOCKET = 1
_MAGIC = b"graced clients 1\n"
"""Ends in the version; a server reads its own only."""
_HEAD = struct.Struct("=dI")
"""frozen, clients"""
_CLIENT = struct.Struct("=QddQQHIi")
"""cookie, since, last, echoed, port, bytes of the host, bytes unsent, bytes that its handler has
saved or -1"""


class SnapshotError(Exception):
    """It is of another version, or damaged."""


def cookie(sock: socket) -> int:
    """What the kernel knows the socket by; raises `OSError`."""
    return int.from_bytes(sock.getsockopt(_SOL_SOCKET, SO_COOKIE, 8), "little")


def encode(clients: Iterable[Client], frozen: float) -> bytes:
    """The state of clients that nobody has served since the monotonic time `frozen`."""
    parts = []
    for client in clients:
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
    return b"".join([_MAGIC, _HEAD.pack(frozen, len(parts) // 4), *parts])


class _Reader:
    """Takes bytes off the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, size: int) -> bytes:
        """Raises `SnapshotError`."""
        taken = self._data[self._position : self._position + size]
        self._position += size
        if len(taken) != size:
            raise SnapshotError("it is cut off")
        return taken

    def unpack(self, format: struct.Struct) -> tuple[Any, ...]:
        """Raises `SnapshotError`."""
        return format.unpack(self.take(format.size))


def decode(data: bytes, sockets: Iterable[socket], phase: int) -> tuple[float, list[Client]]:
    """The clients whose sockets are there, and since when nobody has served them.

    Raises `SnapshotError`.
    """
    if not data.startswith(_MAGIC):
        raise SnapshotError("it is empty, or of another version")
    by_cookie = {cookie(sock): sock for sock in sockets}
    reader = _Reader(data[len(_MAGIC) :])
    frozen, number = reader.unpack(_HEAD)
    clients = []
    for _ in range(number):
        key, since, last, echoed, port, host_size, unsent_size, saved_size = reader.unpack(_CLIENT)
        host = reader.take(host_size).decode("utf-8", "surrogateescape")
        unsent = reader.take(unsent_size)
        saved = None if saved_size < 0 else reader.take(saved_size)
        if key in by_cookie:
            client = Client(by_cookie[key], host, port, phase, since)
            client.last, client.echoed, client.unsent, client.saved = last, echoed, unsent, saved
            clients.append(client)
    return frozen, clients
