"""Turns: when each client is told that the server is going offline, where that takes a while.

Clients that are told at once come back at once, all to the same other server.  With a spread each
client has a turn: a time in the first seconds of the drain, which is drawn by lot, so that several
servers that stop together do not keep step either.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from math import inf
from threading import Lock
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from typing import Any


class Turns:
    """The clients of one owner (an I/O thread, a pool) whose turn is yet to come.

    In place of `graced.loop.policy.AtOnce`.  Any thread may call; times are monotonic seconds.
    """

    def __init__(self, spread: float) -> None:
        """`spread`: seconds from the beginning of the drain to the last turn."""
        # Before the drain: by then an upgrade may have replaced the files.  Only here: a start
        # without a spread does without the module.
        from random import uniform  # noqa: PLC0415

        self._draw = uniform
        self._spread = spread
        self._last = inf
        self._lock = Lock()
        self._heap: list[tuple[float, int, Any]] = []
        self._number = count()
        self._clients: set[Any] = set()

    def begin(self, last: float) -> None:
        """Begin the drain, in which no turn is later than `last`.  Further calls change nothing."""
        self._last = min(self._last, last, monotonic() + self._spread)

    def give(self, clients: Iterable[Any]) -> Collection[Any]:
        """Give each client a turn, and return the clients whose turn is now: none."""
        with self._lock:
            now = monotonic()
            for client in clients:
                if client not in self._clients:
                    turn = self._draw(now, max(now, self._last))
                    self._clients.add(client)
                    heappush(self._heap, (turn, next(self._number), client))
        return ()

    def take(self) -> list[Any]:
        """Return the clients whose turn has come since the last call."""
        found = []
        with self._lock:
            now = monotonic()
            while self._heap and self._heap[0][0] <= now:
                client = heappop(self._heap)[2]
                if client in self._clients:
                    self._clients.remove(client)
                    found.append(client)
        return found

    def discard(self, client: Any) -> None:
        """Give a client that has departed no turn."""
        with self._lock:
            self._clients.discard(client)

    def __contains__(self, client: Any) -> bool:
        """Whether the turn of a client is yet to come."""
        return client in self._clients

    @property
    def next(self) -> float:
        """The time of the next turn; infinite: all clients have had theirs."""
        with self._lock:
            return self._heap[0][0] if self._heap else inf
