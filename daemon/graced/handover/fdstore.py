"""The file descriptor store of the service manager, sd_notify(3): descriptors for the next process.

While the daemon serves, its listening sockets are in the store: a client that connects between two
processes waits in the queue of the socket.  A bundle (`graced.handover.fd_bundle`) for clients and
a snapshot of their state (`graced.handover.snapshot`) is in the store too, empty until a handover.

systemd closes a descriptor for which the store has no place, some time later and without an answer.
So the empty bundle is stored at the start of the service: at a handover the daemon can see whether
systemd has closed the other end of the bundle, which means that the store had no place for clients.
"""

from __future__ import annotations

import os

from graced.handover.fd_bundle import MAX_DESCRIPTORS, FdBundle
from graced.handover.snapshot import encode
from graced.log import events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from socket import socket

    from graced.handover.snapshot import Counts
    from graced.loop.client import Client
    from graced.systemd.notify import Notifier

PREFIX = "graced-"
LISTENERS = PREFIX + "listeners"
CLIENTS = PREFIX + "clients"
"""A bundle: the snapshot of clients, then their sockets."""
REFUSED = PREFIX + "refused"
"""A mark: the last start was refused, for a reason that may pass."""
MIRRORED = PREFIX + "kept"
"""The first bundle of a mirror (`graced.handover.mirror`); the others have a number behind it."""
SETTLE_TIMEOUT = 5.0
"""Seconds in which the service manager can be sent what waits, before a handover."""
_MAX_STATE = 32 * 1024 * 1024
"""Bytes of unsent and saved state, which are memory of the service until the next start."""


def is_mirrored(name: str) -> bool:
    """Whether a descriptor of that name is the bundle of a mirror."""
    return name == MIRRORED or name.startswith(MIRRORED + "-")


class FdStore:
    """The store of one service.  Main thread only."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._bundle: FdBundle | None = None
        self._reason = ""
        """Why there is no bundle."""
        self.tallies: Callable[[], Mapping[str, int]] = dict
        """Returns further counts, which the next process goes on with."""

    def close(self) -> None:
        """Close our end; the store is not changed."""
        if self._bundle:
            self._bundle.close()

    def note_refusal(self) -> None:
        """Let the next start know of a refusal; return when the service manager knows of it."""
        try:
            mark = _mark()
        except OSError as error:
            events.LIMITS(reason=f"the next start will be refused as well: {error.strerror}")
            return
        with open(mark, "rb", buffering=0) as file:
            self._notifier.store(REFUSED, [file])
            self._notifier.barrier()

    def store_listeners(self, listeners: Iterable[socket]) -> None:
        """Add listening sockets to the store, which drops those that are shut.

        So none has to be removed: no moment is without the others.
        """
        self._notifier.store(LISTENERS, list(listeners), watch=True)

    def reserve(self) -> None:
        """Take a place of the store for clients, if one is free and none was taken before.

        To be called again before the preflight of a handover: a shortage at the start has passed.
        """
        if self._bundle:
            return
        self._reason = ""
        try:
            self._bundle = FdBundle()
        except OSError as error:
            self._reason = error.strerror or str(error)
            return
        receiver = self._bundle.receiver
        self._notifier.store(CLIENTS, [receiver], sent=receiver.close)

    def reserve_again(self) -> None:
        """Take the place back that another process has had meanwhile."""
        if self._bundle:
            self._bundle.close()
            self._bundle = None
        self._notifier.forget(CLIENTS)
        self.reserve()

    def settle(self) -> None:
        """Wait until listeners and bundle have been sent, for `SETTLE_TIMEOUT` at most.

        To be called before a handover, while clients are served.
        """
        if not (self._notifier.stores(LISTENERS) and self._notifier.stores(CLIENTS)):
            self._notifier.flush(SETTLE_TIMEOUT)

    def hand_over(
        self,
        clients: Sequence[Client],
        frozen: float,
        counts: Counts,
        handler: str = "",
    ) -> list[Client]:
        """Store clients for the next process; return the clients for which there is no room.

        `frozen`: the monotonic time from which on no process serves the clients.  `counts`: so
        far, which the next process adds to.  `handler`: its name.
        """
        stored: Sequence[Client] | None = None
        if self._reason:
            events.CANNOT_HAND_OVER(reason=self._reason)
        if self._bundle and not self._notifier.stores(CLIENTS):
            # Nobody but this process has the bundle, whose clients would end with this process.
            if self._notifier:
                events.CANNOT_HAND_OVER(reason="the service manager does not take messages")
        elif self._bundle:
            try:
                with open(os.memfd_create(CLIENTS, os.MFD_CLOEXEC), "wb") as state:
                    packed = _pack(self._bundle, state.fileno(), clients)
                    if packed is not None:
                        state.write(encode(packed, frozen, counts, handler, self.tallies()))
                        state.flush()
                        stored = packed
            except OSError as error:
                events.CANNOT_HAND_OVER(reason=error.strerror)
        if stored is None:
            self._notifier.forget(CLIENTS)
            return list(clients)
        return list(clients[len(stored) :])

    def forget(self, names: Iterable[str]) -> None:
        """Remove all descriptors of these names; no copy then holds a closed client open."""
        for name in names:
            self._notifier.forget(name)


def _mark() -> int:
    """A descriptor that means something by its name only."""
    try:
        return os.memfd_create(REFUSED, os.MFD_CLOEXEC)
    except OSError:
        # A container may forbid the call; each service needs an eventfd.
        return os.eventfd(0, os.EFD_CLOEXEC)


def _pack(bundle: FdBundle, state: int, clients: Sequence[Client]) -> Sequence[Client] | None:
    """Put the state and as many clients as there is room for into a bundle; return the clients.

    None: there is no room for the state.
    """
    packed = 0
    size = 0
    if not bundle.put([state]):
        return None
    while packed < len(clients):
        batch = clients[packed : packed + MAX_DESCRIPTORS]
        size += sum(len(client.unsent) + len(client.saved or b"") for client in batch)
        if size > _MAX_STATE or not bundle.put([client.sock.fileno() for client in batch]):
            break
        packed += len(batch)
    return clients[:packed]
