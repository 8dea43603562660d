"""Points in time at which something is to be done about a `EventSource`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from itertools import count

from graced.loop.event_source import EventSource
from graced.loop.phase import GONE


class Timers:
    """A heap of monotonic times.  For one thread.

    A subject has one point in time at most, and it is cheap to put off: no entry of the heap is
    moved, one that comes up too early is put back.
    """

    def __init__(self) -> None:
        self.next = math.inf
        """The earliest time at which something may have to be done."""
        self._heap: list[tuple[float, int, EventSource]] = []
        self._number = count()
        self._stale = 0

    def at(self, subject: EventSource, when: float) -> None:
        """Have `subject` come up at `when`, and not when it otherwise would have."""
        subject.due = when
        if not subject.timer or when < subject.timer:
            subject.timer = when
            heappush(self._heap, (when, next(self._number), subject))
            self.next = self._heap[0][0]

    def expired(self, now: float) -> Iterator[EventSource]:
        """The subjects whose time has come, each once."""
        while self._heap and self._heap[0][0] <= now:
            when, _, subject = heappop(self._heap)
            if subject.timer != when:
                continue
            subject.timer = 0.0
            if subject.due > now:
                self.at(subject, subject.due)
            elif subject.due:
                subject.due = 0.0
                yield subject
        self.next = self._heap[0][0] if self._heap else math.inf

    def forget(self, subject: EventSource) -> None:
        """Leave out one that is GONE; its entries go before they outweigh the others."""
        subject.due = 0.0
        if subject.timer:
            self._stale += 1
            if self._stale > 64 and self._stale * 2 > len(self._heap):
                self._heap = [entry for entry in self._heap if entry[2].phase != GONE]
                heapify(self._heap)
                self._stale = 0
