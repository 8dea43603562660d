"""The poller of an I/O thread: ready descriptors, timers, and actions that other threads post."""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress
from select import EPOLLIN, epoll
from time import monotonic

from graced.loop.event_source import EventSource
from graced.loop.phase import GONE, WAKING
from graced.loop.timers import Timers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

EVENTS_PER_TURN = 85
"""Events of one epoll_wait: malloc has 1 KiB for them at hand; more were 1 % slower."""
MAX_POLL_TIMEOUT = 86400.0
"""Seconds; poll(2) and epoll_wait(2) count milliseconds in an int."""

_gone = EventSource(GONE)
"""The entry of `Poller.sources` for a descriptor that is not registered."""


class Poller:
    """An epoll set, the event source of each descriptor, and timers.

    For one thread, except `post`.
    """

    def __init__(self) -> None:
        self.epoll = epoll()
        self.sources: list[EventSource] = []
        """The event sources, by descriptor."""
        self.timers = Timers()
        self.now = monotonic()
        """The time of the last epoll_wait, for everything that is done about its events.

        Set after each epoll_wait, and again by an action that may have waited.
        """
        self._posted: deque[Callable[[], None]] = deque()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.register(self._wake_fd, EventSource(WAKING), EPOLLIN)

    def close(self) -> None:
        """Close the epoll set and the eventfd."""
        self.epoll.close()
        os.close(self._wake_fd)

    # Actions of other threads.

    def post(self, action: Callable[[], None]) -> None:
        """Call `action` in the poller's thread, in the order of posting.  Any thread may call."""
        self._posted.append(action)
        os.eventfd_write(self._wake_fd, 1)

    def woken(self, _waker: EventSource, _event: int) -> None:
        """Run the posted actions: the eventfd is readable."""
        os.eventfd_read(self._wake_fd)
        self.run_posted()

    def run_posted(self) -> None:
        """Run the posted actions."""
        while self._posted:
            self._posted.popleft()()

    # Descriptors.

    def register(self, fd: int, source: EventSource, interest: int) -> None:
        """Wait for events of `fd`, see epoll_ctl(2).  Raises `OSError`."""
        while len(self.sources) <= fd:
            self.sources.append(_gone)
        self.epoll.register(fd, interest)
        self.sources[fd] = source

    def modify(self, fd: int, interest: int) -> None:
        """Wait for other events; 0: for EPOLLERR and EPOLLHUP alone."""
        self.epoll.modify(fd, interest)

    def unregister(self, fd: int) -> None:
        """Wait for no events of `fd`, which stays open."""
        self.epoll.unregister(fd)
        self.forget(fd)

    def unregister_all(self, descriptors: Sequence[int]) -> None:
        """Unregister many descriptors at once; the others are waited for with their `interest`.

        Each system call takes as long as all other threads that compute want: it gives them the
        GIL.  So the others come into a new set where they are fewer.
        """
        for fd in descriptors:
            self.forget(fd)
        others = [
            (fd, source.interest) for fd, source in enumerate(self.sources) if source is not _gone
        ]
        if len(others) < len(descriptors):
            # No descriptor may be left, or no room for more watches (epoll(7), max_user_watches).
            with suppress(OSError):
                fresh = _set_of(others)
                self.epoll, old = fresh, self.epoll
                old.close()
                return
        for fd in descriptors:
            with suppress(FileNotFoundError):
                # Its connection is broken, and nothing was waited for.
                self.epoll.unregister(fd)

    def forget(self, fd: int) -> None:
        """Clear the entry of a descriptor that is unregistered or about to be closed."""
        self.sources[fd] = _gone

    # Timers.

    def timeout(self) -> float:
        """Seconds until a timer may expire."""
        return min(max(0.0, self.timers.next - monotonic()), MAX_POLL_TIMEOUT)

    def schedule_after(self, source: EventSource, seconds: float) -> None:
        """Let the source come up `seconds` after `now`; an earlier schedule is void."""
        self.timers.schedule(source, self.now + seconds)

    def expired(self) -> Iterator[EventSource]:
        """Yield the sources whose time has come by `now`."""
        return self.timers.expired(self.now)


def _set_of(watched: Iterable[tuple[int, int]]) -> epoll:
    """A new epoll set for descriptors with their interest; negative: none.  Raises `OSError`."""
    found = epoll()
    try:
        for fd, interest in watched:
            if interest >= 0:
                found.register(fd, interest)
    except BaseException:
        found.close()
        raise
    return found
