"""What clients come in by, and what accept(2) may say."""

from __future__ import annotations

import errno
from socket import socket

from graced.loop.event_source import EventSource
from graced.loop.phase import LISTENING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Protocol

    class Listener(Protocol):
        """A listening socket (see `graced.sockets.listener.Listener`)."""

        name: str
        passed: bool
        """Whether it belongs to the service manager, and is left alone in the drain."""
        sock: socket
        fallible: bool
        """Whether `accept` may raise any `OSError` that concerns but one client."""

        def accept(self) -> tuple[socket, Any]: ...

        def shut(self) -> None:
            """Let nobody come any more; those who wait can still be accepted."""


NO_CAPACITY = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""It failed for want of something that others will give back."""
CLIENT_LOST = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPERM,
        errno.EPROTO,
        errno.ENETDOWN,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
    }
)
"""It failed for this one client; the next may be fine."""


class NoCapacityError(Exception):
    """Nobody can be accepted for now; the reason is its cause's `strerror`."""


class Acceptor(EventSource):
    """A listener in the epoll set of an I/O thread."""

    __slots__ = ("listener", "paused")

    def __init__(self, listener: Listener) -> None:
        super().__init__(LISTENING)
        self.listener = listener
        self.paused = False
        """Whether it is out of the epoll set for want of capacity."""

    def fileno(self) -> int:
        return self.listener.sock.fileno()

    def arrivals(self, most: int) -> Iterator[tuple[socket, Any]]:
        """Those who wait, `most` at once, with their addresses.

        Raises `NoCapacityError`, and `OSError` for what cannot happen.
        """
        for _ in range(most):
            try:
                yield self.listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EINVAL:
                    # A Unix socket that is shut, and nobody is left in its queue.
                    return
                if error.errno in NO_CAPACITY:
                    raise NoCapacityError(error.strerror) from error
                if error.errno not in CLIENT_LOST and not self.listener.fallible:
                    raise
