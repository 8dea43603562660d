"""The stream of an echo server, taken apart: bytes in, events out, no socket and no clock.

A TCP stream has no message borders: behind an echo the same read may hold the next echo, the
farewell, or half of either.  Three rules leave only one way to read such a stream, wherever the
network cuts it:

1. *No payload contains the first byte of the farewell* (`payload` avoids that byte).  So a byte
   is either the next byte of an echo or the start of the farewell, and never both.
2. *Echoes come back in order.*  The bytes that are due form one queue; a byte that differs from
   its head is wrong, and no byte after it can be trusted.
3. *The farewell is the last thing that counts.*  It may stand between two echoes or, where the
   server had read only half a payload, inside an echo.  The client then closes its connection.

The service is that of RFC 862 (Echo Protocol, over TCP).
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

FAREWELL = b"SHUTDOWN"
"""The default of ``farewell`` in graced.toml(5)."""
MAX_COUNT = 10**15 - 1
"""Pings in a session, at most: enough for a century, and no two payloads are equal."""
MIN_SIZE = 16
"""Bytes in the smallest payload: the digits of `MAX_COUNT`, and a dot."""
MAX_SIZE = 1 << 20
"""Bytes in the largest payload: a larger payload would measure bandwidth, not a round trip."""


def payload(seq: int, size: int, farewell: bytes = FAREWELL) -> bytes:
    """The `size` bytes of ping number `seq`: the number in decimal and a dot, again and again.

    If the first byte of the farewell is a digit or the dot, an "x" replaces it.  Up to `MAX_COUNT`
    and from `MIN_SIZE` on, number and dot fit in whole, so that no two payloads are equal.
    """
    word = b"%d." % seq
    text = (word * (size // len(word) + 1))[:size]
    return text.replace(farewell[:1], b"x") if farewell else text


class Reply(NamedTuple):
    """A payload has come back in whole, and every byte is right."""

    seq: int


class Farewell(NamedTuple):
    """The server is going offline."""

    offset: int
    """Bytes of echo before it."""


class Mismatch(NamedTuple):
    """A byte belongs neither to an echo nor to the farewell."""

    offset: int
    """Bytes of echo before it."""
    seq: int | None
    """The ping whose echo was due; None: no echo was due."""
    expected: int | None
    """The byte that was due; None: no byte was due."""
    got: int


class Matcher:
    """Reads the stream of one connection by the three rules, the same wherever it is cut.

    `Farewell` and `Mismatch` end the reading: later bytes are ignored.  With an empty `farewell`
    there is none: the server closes without a word.
    """

    def __init__(self, farewell: bytes = FAREWELL) -> None:
        self._farewell = farewell
        self._due = bytearray()
        self._ends: deque[tuple[int, int]] = deque()  # where the echo of which ping ends
        self._offset = 0
        self._held = b""  # the start of a farewell at the end of the last read
        self._ended = False

    def expect(self, seq: int, data: bytes) -> None:
        """Append the payload of ping `seq` to the bytes that are due.

        Raises `ValueError` if the payload breaks the first rule.
        """
        if self._farewell and self._farewell[0] in data:
            raise ValueError("a payload must not contain the first byte of the farewell")
        self._due += data
        self._ends.append((self._offset + len(self._due), seq))

    def feed(self, data: bytes) -> list[Reply | Farewell | Mismatch]:
        """Match the bytes of a read; return the events that they complete, in their order."""
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
    """The length of the common start of two byte strings."""
    length = min(len(left), len(right))
    if left[:length] == right[:length]:
        return length
    return next(i for i in range(length) if left[i] != right[i])
