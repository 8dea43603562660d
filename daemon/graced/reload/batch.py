"""A batch as a letter: clients that move to the new process, or come back.

The letter has a file with the snapshot of the clients (`graced.handover.snapshot`), as a restart
has, and their sockets.  The kernel's cookie of each socket matches a socket with its state, so the
answer is a list of cookies: those of the clients that the new process could serve.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import ExitStack
from time import monotonic

from graced.handover.snapshot import Snapshot, cookie, decode, encode
from graced.loop.phase import GONE
from graced.reload.channel import MAX_DESCRIPTORS
from graced.reload.table import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from graced.loop.client import Client
    from graced.reload.channel import Channel, Letter

MAX_CLIENTS = MAX_DESCRIPTORS - 1
"""Clients in a batch: one descriptor is the file."""
_COOKIE = struct.Struct("=Q")
_NO_COUNTS = (0, 0, 0, 0)
"""MOVED brings the counts of the old process, once."""


def send(channel: Channel, clients: Sequence[Client], handler: str = "") -> None:
    """Send up to `MAX_CLIENTS` frozen clients, whose sockets stay open here.

    `handler`: the name of their handler.  Raises `OSError`; nothing is sent then.
    """
    state = os.memfd_create("graced-batch", os.MFD_CLOEXEC)
    with open(state, "wb") as file:
        file.write(encode(clients, monotonic(), _NO_COUNTS, handler))
        file.flush()
        sockets = [client.sock.fileno() for client in clients]
        channel.send(Message.BATCH, descriptors=[state, *sockets])


def receive(letter: Letter) -> Snapshot:
    """A batch, without the clients whose sockets are missing or have no state.

    Closes what is not used.  Raises `SnapshotError` or `OSError` where the batch cannot be read,
    as one of another version.
    """
    with ExitStack() as unused:
        unused.callback(letter.close)
        if not letter.descriptors:
            return Snapshot(0.0, [], _NO_COUNTS)
        with open(letter.descriptors.pop(0), "rb") as file:
            file.seek(0)
            state = file.read()
        sockets = []
        while letter.descriptors:
            sock = socket.socket(fileno=letter.descriptors[0])
            del letter.descriptors[0]
            unused.callback(sock.close)
            sock.setblocking(False)
            sockets.append(sock)
        snapshot = decode(state, sockets, GONE)
        unused.pop_all()
    used = {client.sock for client in snapshot.clients}
    for sock in sockets:
        if sock not in used:
            sock.close()
    return snapshot


def answer(channel: Channel, taken: Iterable[Client]) -> None:
    """Say which clients of the batch could be served here.  Raises `OSError`."""
    channel.send(Message.TAKEN, data=b"".join(_COOKIE.pack(cookie(each.sock)) for each in taken))


def divide(clients: Sequence[Client], letter: Letter) -> tuple[list[Client], list[Client]]:
    """The clients of the batch that the answer names, and the others."""
    size = len(letter.data) // _COOKIE.size * _COOKIE.size
    named = {key for (key,) in _COOKIE.iter_unpack(letter.data[:size])}
    taken: list[Client] = []
    others: list[Client] = []
    for client in clients:
        (taken if cookie(client.sock) in named else others).append(client)
    return taken, others
