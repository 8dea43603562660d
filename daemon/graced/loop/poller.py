"""What an I/O thread waits for: descriptors, points in time, and what other threads ask for."""

from __future__ import annotations

import os
from collections import deque
from select import EPOLLIN, epoll
from time import monotonic

from graced.loop.event_source import EventSource
from graced.loop.phase import GONE, WAKING
from graced.loop.timers import Timers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_POLL_TIMEOUT = 86400.0
"""Seconds; poll(2) and epoll_wait(2) count milliseconds in an int."""

_gone = EventSource(GONE)
"""What stands in the table for a descriptor that nobody waits for."""


class Poller:
    """An epoll set, the subject behind each of its descriptors, and a heap of times.

    For one thread, except `post`.
    """

    def __init__(self) -> None:
        self.epoll = epoll()
        self.subjects: list[EventSource] = []
        """By descriptor."""
        self.timers = Timers()
        self.now = monotonic()
        """The time for all that one epoll_wait has returned.

        Set by the thread after each; and by an action that may have waited before it was done.
        """
        self._posted: deque[Callable[[], None]] = deque()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.watch(self._wake_fd, EventSource(WAKING), EPOLLIN)

    def close(self) -> None:
        """Give up what is open."""
        self.epoll.close()
        os.close(self._wake_fd)

    # What other threads ask for.

    def post(self, action: Callable[[], None]) -> None:
        """Have `action` done by the thread whose poller this is, soon.  Any thread may call."""
        self._posted.append(action)
        os.eventfd_write(self._wake_fd, 1)

    def woken(self, _waker: EventSource, _event: int) -> None:
        """Do what was posted: the subject WAKING has news."""
        os.eventfd_read(self._wake_fd)
        self.do_what_was_posted()

    def do_what_was_posted(self) -> None:
        while self._posted:
            self._posted.popleft()()

    # Descriptors.

    def watch(self, fd: int, subject: EventSource, interest: int) -> None:
        """Wait for news of `fd`.  Raises `OSError`."""
        while len(self.subjects) <= fd:
            self.subjects.append(_gone)
        self.epoll.register(fd, interest)
        self.subjects[fd] = subject

    def want(self, fd: int, interest: int) -> None:
        """Wait for other news of it; 0: only for its end."""
        self.epoll.modify(fd, interest)

    def unwatch(self, fd: int) -> None:
        """Wait for no news of it, and keep it open."""
        self.epoll.unregister(fd)
        self.forget(fd)

    def forget(self, fd: int) -> None:
        """Clear its place in the table, no more: it is out of the set or about to be closed."""
        self.subjects[fd] = _gone

    # Points in time.

    def timeout(self) -> float:
        """Seconds until something may be due."""
        return min(max(0.0, self.timers.next - monotonic()), MAX_POLL_TIMEOUT)

    def after(self, subject: EventSource, seconds: float) -> None:
        """Have `subject` be due so many seconds after `now`, and not when it otherwise would."""
        self.timers.at(subject, self.now + seconds)

    def due(self) -> Iterator[EventSource]:
        """Those whose time has come, each once."""
        return self.timers.expired(self.now)
