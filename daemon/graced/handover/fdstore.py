"""What the service manager keeps for the next start: the file descriptor store of sd_notify(3).

Our own listening sockets are in it from the start on: who connects while nobody is there to accept
waits in their queues.  So is a bundle (`graced.handover.fd_bundle`) for clients and their state
(`graced.handover.snapshot`), which is empty until they are left to the next process.

A store that is full closes what does not fit, when it likes, and says nothing.  So the place is
taken long before it is needed: of a bundle that nobody keeps the other end is closed by then.
"""

from __future__ import annotations

import os
from contextlib import suppress

from graced.handover.fd_bundle import MOST, FdBundle
from graced.handover.snapshot import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from socket import socket

    from graced.loop.client import Client
    from graced.systemd.notify import Notifier

PREFIX = "graced-"
LISTENERS = PREFIX + "listeners"
CLIENTS = PREFIX + "clients"
"""A bundle: the state of clients, then their sockets."""
MIRRORED = PREFIX + "kept"
"""A bundle of clients without state (`graced.handover.mirror`)."""
_LARGEST_STATE = 32 * 1024 * 1024
"""Bytes: it is memory of the service until the next start has read it."""


class FdStore:
    """The store of one service.  Main thread only."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._bundle: FdBundle | None = None

    def close(self) -> None:
        """Have nothing more to do with it; what is kept stays there."""
        if self._bundle:
            self._bundle.close()

    def release(self, name: str) -> None:
        """Return when what has that name is kept no longer."""
        self._notifier.forget(name)
        self._notifier.barrier()

    def keep_listeners(self, listeners: Iterable[socket]) -> None:
        """Have these kept from now on."""
        self._notifier.store(LISTENERS, [sock.fileno() for sock in listeners])

    def reserve(self) -> None:
        """Take the place for clients, if there is one."""
        self._bundle = FdBundle()
        self._notifier.store(CLIENTS, [self._bundle.receiver.fileno()])
        self._bundle.receiver.close()

    def leave(self, clients: Sequence[Client], frozen: float) -> list[Client]:
        """Leave clients to the next start, and return those for whom there is no room.

        `frozen`: since when, in monotonic seconds, nobody serves them.
        """
        kept: Sequence[Client] = ()
        if clients and self._bundle:
            with suppress(OSError), open(os.memfd_create(CLIENTS, os.MFD_CLOEXEC), "wb") as state:
                packed = _pack(self._bundle, state.fileno(), clients)
                state.write(encode(packed, frozen))
                state.flush()
                kept = packed
        if not kept:
            self._notifier.forget(CLIENTS)
        return list(clients[len(kept) :])

    def forget(self, names: Iterable[str]) -> None:
        """Let go of what the service manager has passed to us: closed must be closed."""
        for name in names:
            self._notifier.forget(name)


def _pack(bundle: FdBundle, state: int, clients: Sequence[Client]) -> Sequence[Client]:
    """Put the state and as many clients as there is room for into a bundle; return those."""
    packed = 0
    size = 0
    if bundle.put([state]):
        while packed < len(clients):
            batch = clients[packed : packed + MOST]
            size += sum(len(client.unsent) + len(client.saved or b"") for client in batch)
            if size > _LARGEST_STATE or not bundle.put([c.sock.fileno() for c in batch]):
                break
            packed += len(batch)
    return clients[:packed]
