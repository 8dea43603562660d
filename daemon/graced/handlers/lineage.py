"""Child processes of handlers: how long they have the connection of their parent's client.

``socketserver.ForkingMixIn`` forks in the handler's thread and closes the request in the parent:
the handler has ended there, and the child serves the client.  So a fork in a handler's thread gives
the child one end of a pipe, to which nobody writes.  The other end hangs up when the child and all
processes that it has forked have gone.  One thread forks at a time, else the child of another
thread could inherit that end too.
"""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket

_here = threading.local()
_one_fork = threading.Lock()


class Lineage:
    """The children that one handler has forked.  For the handler's thread."""

    __slots__ = ("_ends", "_pipe")

    def __init__(self) -> None:
        self._ends: list[int] = []
        self._pipe: tuple[int, int] | None = None

    def __bool__(self) -> bool:
        return bool(self._ends)

    def watch(self) -> None:
        """Watch forks of this thread from now on, until `close`."""
        _here.lineage = self

    def close(self) -> None:
        """Watch no more."""
        _here.lineage = None
        for end in self._ends:
            os.close(end)
        self._ends.clear()

    def wait(self, connection: socket) -> None:
        """Return when the children have gone, or the connection is over in both directions."""
        poll = select.poll()
        # POLLHUP of the connection is reported without asking.
        poll.register(connection, 0)
        waiting = set(self._ends)
        for end in waiting:
            poll.register(end, 0)
        while waiting:
            for fd, _ in poll.poll():
                if fd not in waiting:
                    return
                poll.unregister(fd)
                waiting.discard(fd)

    # Called by fork(2) in its thread.

    def _before(self) -> None:
        # Without a descriptor left the child is not noticed, and the fork goes on.
        self._pipe = None
        with suppress(OSError):
            self._pipe = os.pipe()

    def _in_parent(self) -> None:
        if self._pipe:
            ours, theirs = self._pipe
            os.close(theirs)
            self._ends.append(ours)

    def _in_child(self) -> None:
        self.close()
        if self._pipe:
            os.close(self._pipe[0])


def _lineage() -> Lineage | None:
    return getattr(_here, "lineage", None)


def _before() -> None:
    _one_fork.acquire()
    if (lineage := _lineage()) is not None:
        lineage._before()


def _in_parent() -> None:
    if (lineage := _lineage()) is not None:
        lineage._in_parent()
    _one_fork.release()


def _in_child() -> None:
    if (lineage := _lineage()) is not None:
        lineage._in_child()
    _one_fork.release()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
