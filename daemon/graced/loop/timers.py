"""Timers: the points in time at which event sources come up."""

from __future__ import annotations

import math
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from itertools import count

from graced.loop.event_source import EventSource
from graced.loop.phase import GONE

MIN_STALE = 64
"""Entries of cancelled sources for which the heap is not rebuilt."""


class Timers:
    """A heap of monotonic times.  For one thread.

    A source has a single point in time.  Putting a source off is cheap: no entry of the heap moves,
    and an entry that comes up too early is put back.
    """

    def __init__(self) -> None:
        self.next = math.inf
        """The earliest time at which a source may come up."""
        self._heap: list[tuple[float, int, EventSource]] = []
        self._number = count()
        self._stale = 0

    def __len__(self) -> int:
        """The number of entries in the heap, stale entries included."""
        return len(self._heap)

    def schedule(self, source: EventSource, when: float) -> None:
        """Let the source come up at `when`; an earlier schedule is void."""
        source.due = when
        if not source.timer or when < source.timer:
            source.timer = when
            heappush(self._heap, (when, next(self._number), source))
            self.next = self._heap[0][0]

    def expired(self, now: float) -> Iterator[EventSource]:
        """Yield the sources whose time has come, each once, the earliest first."""
        while self._heap and self._heap[0][0] <= now:
            when, _, source = heappop(self._heap)
            if source.timer != when:
                continue
            source.timer = 0.0
            if source.due > now:
                self.schedule(source, source.due)
            elif source.due:
                source.due = 0.0
                yield source
        self.next = self._heap[0][0] if self._heap else math.inf

    def cancel(self, source: EventSource) -> None:
        """Let a source that is GONE not come up.

        The stale entries leave the heap before they outnumber the others.
        """
        source.due = 0.0
        if source.timer:
            self._stale += 1
            if self._stale > MIN_STALE and self._stale * 2 > len(self._heap):
                self._heap = [entry for entry in self._heap if entry[2].phase != GONE]
                heapify(self._heap)
                self._stale = 0
