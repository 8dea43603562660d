"""A mirror of the clients in the service manager's store, from the accept on.

A crash of the server ends no connection of a mirrored client; a client of a blocking handler, whose
state is lost, is told by the next process and closed.  A copy of each client's socket goes into a
bundle (`graced.handover.fd_bundle`) that the service manager has.  No single descriptor can be
taken out of a bundle, so the copies of departed clients stay until the bundle is full; then copies
of the present clients go into a new bundle, 253 in a message.  A connection that the server closes
must be shut down first: as long as there is a copy, close(2) alone sends no end of file.

A mirrored client costs 3 KiB of the kernel's memory, and a connection with one echo takes 72 us of
processor time instead of 31 (measured); so the mirror is not the default.
"""

from __future__ import annotations

from threading import Lock

from graced.handover.fd_bundle import MAX_DESCRIPTORS, FdBundle
from graced.log import events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket

    from graced.loop.client import Client

MAX_MESSAGES = 200
"""Messages in one bundle: the default buffer of a socket has room (net.core.wmem_default)."""


class Mirror:
    """Copies of the sockets of clients, in the store.  Any thread may call."""

    def __init__(self, replace: Callable[[socket], None]) -> None:
        """`replace` lets the service manager store a socket, then remove the last one.

        The socket may be sent later, and stays open until the next call has returned.
        """
        self._replace = replace
        self._lock = Lock()
        self._present: set[Client] = set()
        self._bundle: FdBundle | None = None
        self._messages = 0
        self.copies = 0
        """Descriptors in the bundle, those of departed clients too."""
        self._full = False
        self._started = False
        self._closed = False

    def start(self) -> None:
        """Replace the bundle of the last process by a bundle of the clients so far.

        Until then the store is not changed: a start that fails has taken nothing out.
        """
        with self._lock:
            if not self._closed:
                self._started = True
                self._renew()

    def add(self, client: Client) -> None:
        """Mirror a client from now on, if there is room."""
        with self._lock:
            if self._closed:
                return
            self._present.add(client)
            if not self._started:
                return
            if self._bundle and self._messages < MAX_MESSAGES:
                self._put([client.sock.fileno()])
            else:
                self._renew()

    def discard(self, client: Client) -> None:
        """Leave a client out of the next bundle.  To be called before the client is closed."""
        with self._lock:
            self._present.discard(client)

    def _renew(self) -> None:
        try:
            bundle = FdBundle()
        except OSError as error:
            if not self._full:
                events.CANNOT_MIRROR(reason=error.strerror)
            self._full = True
            return
        last, self._bundle = self._bundle, bundle
        self._messages = self.copies = 0
        fds = [fd for fd in (client.sock.fileno() for client in self._present) if fd >= 0]
        for start in range(0, len(fds), MAX_DESCRIPTORS):
            self._put(fds[start : start + MAX_DESCRIPTORS])
        # Only now: if we die before this line the store has the copies of the last bundle.
        self._replace(bundle.receiver)
        if last:
            last.close()

    def _put(self, descriptors: list[int]) -> None:
        assert self._bundle
        if self._bundle.put(descriptors):
            self._messages += 1
            self.copies += len(descriptors)
            self._full = False
            return
        # The last bundle may still be in flight; the next client gives another chance.
        self._messages = MAX_MESSAGES
        if not self._full:
            events.CANNOT_MIRROR(reason="too many descriptors are under way")
        self._full = True

    def close(self) -> None:
        """Mirror no client any longer; the store is not changed."""
        with self._lock:
            self._closed = True
            self._present.clear()
            if self._bundle:
                self._bundle.close()
