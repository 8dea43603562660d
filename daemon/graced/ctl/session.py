"""The echo client: sends payloads, verifies what comes back, hears the farewell.

A TCP stream has no message borders, so what follows an echo in the same read may be the next
echo, the farewell, or half of either.  Three rules leave one way only to read such a stream,
wherever the network cuts it:

1. *No payload contains the first byte of the farewell* (`payload` sees to it).  A byte is either
   the next one of an echo or the start of the farewell, and never both: nothing is guessed, and
   nothing has to be taken back.
2. *Echoes come back in order.*  What is due is one queue of bytes; a byte that differs from its
   head is wrong, and nothing that follows it can be trusted.
3. *The farewell is the last thing that counts.*  It may stand between two echoes or, where the
   server had read only half a payload, inside one.  Whoever hears it hangs up.

`Matcher` is these rules and no more: bytes in, events out, no socket and no clock.  `Session`
drives one over a connection.

The service is that of RFC 862 (Echo Protocol, over TCP), the words and the figures are ping(8)'s.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from math import ceil, isqrt
from typing import NamedTuple

FAREWELL = b"SHUTDOWN"
"""What a server says that goes offline, unless it is configured otherwise."""
MAX_COUNT = 10**15 - 1
"""Pings in a session, at most: a century of them, and every payload is another."""
MIN_SIZE = 16
"""Bytes in the smallest payload: the number of the last of them, and a dot."""
MAX_SIZE = 1 << 20
"""Bytes in the largest payload; a larger one would measure bandwidth, not a round trip."""

_READ_SIZE = 1 << 16
_NS_PER_MS = 1_000_000
_NS_PER_S = 1_000_000_000


def payload(seq: int, size: int, farewell: bytes = FAREWELL) -> bytes:
    """The `size` bytes of ping number `seq`: the number in decimal and a dot, again and again.

    The farewell's first byte is not among them: should it be one of the eleven in use, an "x",
    which is not, stands in for it.  Up to `MAX_COUNT` and from `MIN_SIZE` on, number and dot fit
    in whole, so that no two payloads are equal.
    """
    word = b"%d." % seq
    text = (word * (size // len(word) + 1))[:size]
    return text.replace(farewell[:1], b"x") if farewell else text


class Reply(NamedTuple):
    """All of a payload has come back, and every byte of it is right."""

    seq: int


class Farewell(NamedTuple):
    """The server is going offline."""

    offset: int
    """How many bytes of echo came before it."""


class Mismatch(NamedTuple):
    """A byte that belongs neither to an echo nor to the farewell."""

    offset: int
    """How many bytes of echo came before it."""
    seq: int | None
    """The ping whose echo was due; None if none was."""
    expected: int | None
    """The byte that was due; None if none was."""
    got: int


class Matcher:
    """Reads the stream of one connection by the rules above, the same however it is cut.

    `Farewell` and `Mismatch` end it, what follows them is ignored.  An empty `farewell` is that
    of a server which leaves without a word.
    """

    def __init__(self, farewell: bytes = FAREWELL) -> None:
        self._farewell = farewell
        self._due = bytearray()
        self._ends: deque[tuple[int, int]] = deque()  # where the echo of which ping ends
        self._offset = 0
        self._held = b""  # the start of a farewell at the end of the last read
        self._ended = False

    def expect(self, seq: int, data: bytes) -> None:
        """Let `data`, which is being sent as ping `seq`, be due after all that is due already.

        Raises `ValueError` where it breaks the first rule.
        """
        if self._farewell and self._farewell[0] in data:
            raise ValueError("a payload must not contain the first byte of the farewell")
        self._due += data
        self._ends.append((self._offset + len(self._due), seq))

    def feed(self, data: bytes) -> list[Reply | Farewell | Mismatch]:
        """Take what a read returned; return what that completes, in the order of the stream."""
        if self._ended:
            return []
        data = self._held + data
        start = data.find(self._farewell[:1]) if self._farewell else -1
        echo, rest = (data, b"") if start < 0 else (data[:start], data[start:])

        right = _agreement(echo, self._due)
        del self._due[:right]
        self._offset += right
        replies: list[Reply | Farewell | Mismatch] = []
        while self._ends and self._ends[0][0] <= self._offset:
            replies.append(Reply(self._ends.popleft()[1]))

        last: Farewell | Mismatch
        if right < len(echo):
            last = self._mismatch(echo[right])
        elif rest and rest.startswith(self._farewell):
            last = Farewell(self._offset)
        elif self._farewell.startswith(rest):
            self._held = rest
            return replies
        else:
            last = self._mismatch(rest[0])
        self._ended = True
        return [*replies, last]

    def _mismatch(self, got: int) -> Mismatch:
        seq = self._ends[0][1] if self._ends else None
        return Mismatch(self._offset, seq, self._due[0] if self._due else None, got)


def _agreement(left: bytes, right: bytes | bytearray) -> int:
    """How many bytes the two have in common from the start."""
    length = min(len(left), len(right))
    if left[:length] == right[:length]:
        return length
    return next(i for i in range(length) if left[i] != right[i])


class RoundTrip(NamedTuple):
    """A payload has come back and is right."""

    seq: int
    size: int
    """Bytes."""
    time_ms: float
    """Milliseconds from the first byte sent to the last one read."""
    late: bool
    """It had been given up before, and still counts as lost."""


class Lost(NamedTuple):
    """A ping that is not waited for any longer."""

    seq: int
    waited_ms: float


class Closed(NamedTuple):
    """The server hung up without a farewell."""

    reason: str


Event = RoundTrip | Lost | Farewell | Mismatch | Closed


class Plan(NamedTuple):
    """What a session does: the options of gracectl(1), and their defaults."""

    pings: int | None = None
    """How many to send; None for no end."""
    interval: float = 1.0
    """Seconds from one ping to the next, unless the reply takes longer; 0 does not wait."""
    size: int = 56
    """Bytes in a payload, `MIN_SIZE` to `MAX_SIZE`."""
    timeout: float = 10.0
    """Seconds after which a reply is not waited for any longer."""
    farewell: bytes = FAREWELL


class RoundTripTimes:
    """Adds up round trips without rounding: from nanoseconds to the figures of ping(8)."""

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
        """In milliseconds: min, avg, max and mdev, the standard deviation; None of nothing."""
        if not self.count:
            return None
        mdev = isqrt(self.count * self._squares - self._sum**2) / self.count
        figures = {"min": self._min, "avg": self._sum / self.count, "max": self.max, "mdev": mdev}
        return {name: figure / _NS_PER_MS for name, figure in figures.items()}


class Session:
    """Pings over one connected socket, one at a time: the next only when the last is settled.

    It sleeps on the socket and never beside it, so that a farewell is heard at once, also between
    two pings, and always before another ping is sent.  The socket stays the caller's to close.

    `interrupt` is a socket that becomes readable when the session shall come to its end (Ctrl-C).
    """

    def __init__(
        self, sock: socket.socket, plan: Plan, interrupt: socket.socket | None = None
    ) -> None:
        sock.setblocking(False)
        self.sent = 0
        self.lost = 0
        """Those given up, or under way when the connection broke; but not when a farewell came:
        the server would have answered."""
        self.times = RoundTripTimes()
        """Of the replies that came in time."""
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
        self._sent_at: dict[int, int] = {}  # by number, those without a reply
        self._awaited: int | None = None
        self._alarm = time.monotonic_ns()  # when to give up the awaited one, or to send the next

    def run(self) -> Iterator[Event]:
        """Do what the plan says; yield what happens when it does.

        The last event is a `Farewell`, `Mismatch` or `Closed` if one of these was the end of it.
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
            # The server is gone.  What it said before, perhaps its farewell, is still to be read,
            # and then the reason.
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
        """Send no more, and wait only as long as ping(8) would: twice the longest round trip."""
        self._remaining = 0
        self._alarm = min(self._alarm, time.monotonic_ns() + 2 * self.times.max)
