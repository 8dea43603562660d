"""The echo client: a `Session` sends payloads over one connection and reports what comes back.

`graced.ctl.matcher` reads the stream; the session adds socket and clock.  Words and figures are
those of ping(8).
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from math import ceil, isqrt
from typing import NamedTuple

from graced.ctl.matcher import FAREWELL, Farewell, Matcher, Mismatch, Reply, payload

_READ_SIZE = 1 << 16
_NS_PER_MS = 1_000_000
_NS_PER_S = 1_000_000_000


class RoundTrip(NamedTuple):
    """A payload has come back, and every byte is right."""

    seq: int
    size: int
    """Bytes."""
    time_ms: float
    """Milliseconds from the first byte sent to the last one read."""
    late: bool
    """The reply had been given up before, and still counts as lost."""


class Lost(NamedTuple):
    """The reply to a ping is not waited for any longer."""

    seq: int
    waited_ms: float


class Closed(NamedTuple):
    """The server hung up without a farewell."""

    reason: str


Event = RoundTrip | Lost | Farewell | Mismatch | Closed


class Plan(NamedTuple):
    """The options of a session, and their defaults."""

    pings: int | None = None
    """Pings to send; None: no end."""
    interval: float = 1.0
    """Seconds from one ping to the next, unless the reply takes longer; 0: no wait."""
    size: int = 56
    """Bytes in a payload, `MIN_SIZE` to `MAX_SIZE`."""
    timeout: float = 10.0
    """Seconds after which a reply counts as lost."""
    farewell: bytes = FAREWELL


class RoundTripTimes:
    """Adds up round trips in nanoseconds, without rounding, for the figures of ping(8)."""

    def __init__(self) -> None:
        self.count = self.max = 0
        self._min = self._sum = self._squares = 0

    def add(self, rtt: int) -> None:
        self._min = min(self._min, rtt) if self.count else rtt
        self.max = max(self.max, rtt)
        self.count += 1
        self._sum += rtt
        self._squares += rtt * rtt

    def figures_ms(self) -> dict[str, float] | None:
        """In milliseconds: min, avg, max and mdev (standard deviation); None without a reply."""
        if not self.count:
            return None
        mdev = isqrt(self.count * self._squares - self._sum**2) / self.count
        figures = {"min": self._min, "avg": self._sum / self.count, "max": self.max, "mdev": mdev}
        return {name: figure / _NS_PER_MS for name, figure in figures.items()}


class Session:
    """Pings over one connected socket, each after the previous ping has come back or is lost.

    The session always waits for the socket, also between two pings, so that a farewell is heard
    at once and before another ping is sent.  The caller closes the socket.

    `interrupt`: a socket that becomes readable when the session shall end (Ctrl-C).
    """

    def __init__(
        self, sock: socket.socket, plan: Plan, interrupt: socket.socket | None = None
    ) -> None:
        sock.setblocking(False)
        self.sent = 0
        self.lost = 0
        """Pings given up, or under way when the connection broke.  A ping under way at a farewell
        is not lost: the server would have answered."""
        self.times = RoundTripTimes()
        """Times of the replies in time."""
        self._sock = sock
        self._plan = plan
        self._interrupt = interrupt
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        if interrupt is not None:
            self._poll.register(interrupt, select.POLLIN)
        self._matcher = Matcher(plan.farewell)
        self._remaining = plan.pings
        self._unsent = b""
        self._sent_at: dict[int, int] = {}  # pings without a reply, by number
        self._awaited: int | None = None
        self._alarm = (
            time.monotonic_ns()
        )  # when to give up the awaited reply, or to send the next ping

    def run(self) -> Iterator[Event]:
        """Carry out the plan, and yield each event when it happens.

        If a `Farewell`, `Mismatch` or `Closed` ends the session, this event is the last.
        """
        while self._awaited is not None or self._remaining != 0:
            wait_ns = self._alarm - time.monotonic_ns()
            ready = dict(self._poll.poll(max(0, ceil(wait_ns / _NS_PER_MS))))
            if self._interrupt is not None and self._interrupt.fileno() in ready:
                self._poll.unregister(self._interrupt)
                self._interrupt = None
                self._wind_up()
            if ready.get(self._sock.fileno(), 0) & ~select.POLLOUT:
                for event in self._read():
                    yield event
                    if not isinstance(event, RoundTrip):
                        self.lost += self._awaited is not None and not isinstance(event, Farewell)
                        return
            if self._unsent:
                self._flush()
            now = time.monotonic_ns()
            if now < self._alarm:
                continue
            if self._awaited is not None:
                yield self._give_up(self._awaited, now)
            elif self._remaining != 0:
                self._send()

    def _send(self) -> None:
        self.sent += 1
        if self._remaining is not None:
            self._remaining -= 1
        data = payload(self.sent, self._plan.size, self._plan.farewell)
        self._matcher.expect(self.sent, data)
        self._unsent += data
        self._awaited = self.sent
        now = self._sent_at[self.sent] = time.monotonic_ns()
        self._alarm = now + int(self._plan.timeout * _NS_PER_S)
        self._flush()

    def _flush(self) -> None:
        try:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            # The server is gone.  Its last words, perhaps the farewell, can still be read, and
            # then the reason.
            self._unsent = b""
        self._poll.modify(self._sock, select.POLLIN | (select.POLLOUT if self._unsent else 0))

    def _read(self) -> Iterator[Event]:
        try:
            data = self._sock.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            yield Closed(error.strerror or str(error))
            return
        now = time.monotonic_ns()
        if not data:
            yield Closed("closed without a farewell")
            return
        for event in self._matcher.feed(data):
            yield self._round_trip(event.seq, now) if isinstance(event, Reply) else event

    def _round_trip(self, seq: int, now: int) -> RoundTrip:
        sent_at = self._sent_at.pop(seq)
        late = seq != self._awaited
        if not late:
            self.times.add(now - sent_at)
            self._settle(sent_at)
        return RoundTrip(seq, self._plan.size, (now - sent_at) / _NS_PER_MS, late)

    def _give_up(self, seq: int, now: int) -> Lost:
        self.lost += 1
        sent_at = self._sent_at[seq]
        self._settle(sent_at)
        return Lost(seq, (now - sent_at) / _NS_PER_MS)

    def _settle(self, sent_at: int) -> None:
        self._awaited = None
        self._alarm = sent_at + int(self._plan.interval * _NS_PER_S)

    def _wind_up(self) -> None:
        """Send no more pings, and wait as ping(8) would: for twice the longest round trip."""
        self._remaining = 0
        self._alarm = min(self._alarm, time.monotonic_ns() + 2 * self.times.max)
