"""Several descriptors that are watched as one."""

from __future__ import annotations

from contextlib import suppress
from select import EPOLLIN, POLLIN, epoll, poll

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Watch:
    """Readable when one of its descriptors is, or has hung up.  Main thread only."""

    interest: int = POLLIN
    """For `graced.process.supervisor.Attended`."""

    def __init__(self) -> None:
        """Raises `OSError`."""
        self._epoll = epoll()
        self._watched: Sequence[int] = ()

    def fileno(self) -> int:
        """The descriptor of all."""
        return self._epoll.fileno()

    def watch(self, descriptors: Sequence[int]) -> None:
        """Watch these descriptors and no others."""
        # All of them: one that was closed meanwhile may have given its number to another.
        for fd in self._watched:
            with suppress(OSError):
                self._epoll.unregister(fd)
        self._watched = descriptors
        for fd in descriptors:
            self._epoll.register(fd, EPOLLIN)

    def close(self) -> None:
        """Watch nothing any more."""
        self._epoll.close()


def is_ready(fd: int, events: int = POLLIN) -> bool:
    """Whether one of the events of poll(2) is true of a descriptor now; 0: whether it hung up."""
    found = poll()
    found.register(fd, events)
    return bool(found.poll(0))
