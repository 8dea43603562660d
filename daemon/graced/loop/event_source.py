"""An event source: what a poller waits for (the term of sd-event(3))."""

from __future__ import annotations

from select import EPOLLIN


class EventSource:
    """A descriptor, a point in time, or both, for which an I/O thread waits."""

    __slots__ = ("due", "phase", "timer")

    interest: int = EPOLLIN
    """The events that a new epoll set waits for, see `Poller.unregister_all`; negative: none."""

    def __init__(self, phase: int) -> None:
        self.phase = phase
        """What is true of the source, see `graced.loop.phase`."""
        self.due = 0.0
        """Monotonic time at which the source comes up; 0: never."""
        self.timer = 0.0
        """Monotonic time of the source's entry in the heap of `Timers`; 0: there is no entry.

        Earlier than `due` where the source was put off, which moves no entry."""
