"""A client of the model: what it has sent and received, and what it may therefore expect."""

from __future__ import annotations

import socket
import time
from itertools import count
from random import Random

from robustness.connection import Connection
from support import FAREWELL

_numbers = count()
_TEXT = bytes(Random(862).choices(b"abcdefghijklmnopqrstuvwxyz0123456789", k=1 << 22))
"""What is sent has no letter of the farewell in it, so that there is no doubt where that is."""


class Peer(Connection):
    """A client of the echo."""

    def __init__(self, sock: socket.socket, *, late: bool) -> None:
        """`late`: connected when the server had been told to stop."""
        super().__init__(sock)
        self.late = late
        self.since = time.monotonic()
        self.marks: list[tuple[float, int]] = []
        """When how much had been sent."""
        self._offset = next(_numbers) * 7919

    def __repr__(self) -> str:
        kind = f"{'late ' if self.late else ''}{'' if self.reads else 'deaf '}"
        kind += "" if self.writes else "half-closed "
        state = "gone" if self.gone else self.ended or "there"
        return f"<{kind}peer, {self.sent} sent, {len(self.received)} received, {state}>"

    def _text(self, number: int, start: int = 0) -> bytes:
        """So many bytes of what it sends, which is different for each peer."""
        text = bytearray()
        while len(text) < number:
            place = (self._offset + start + len(text)) % len(_TEXT)
            text += _TEXT[place : place + number - len(text)]
        return bytes(text)

    # What it does.

    def send(self, number: int) -> None:
        """As many bytes of these as go out now."""
        try:
            sent = self.sock.send(self._text(number, self.sent))
        except BlockingIOError:
            return
        except OSError:
            # Closed by the server; why, is found by reading.
            self.writes = False
            return
        self.sent += sent
        self.marks.append((time.monotonic(), self.sent))

    def half_close(self) -> None:
        """Send no more."""
        self.writes = False
        self.left_at = time.monotonic()
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            # Closed by the server, as above.
            return

    # What came of it.

    @property
    def told(self) -> bool:
        """Whether it has heard the farewell."""
        return FAREWELL in self.received

    @property
    def echoed(self) -> int:
        """How many of its bytes have come back."""
        return len(self.received) - (len(FAREWELL) if self.told else 0)

    def sent_before(self, when: float) -> int:
        """How much it had sent by then."""
        return max((sent for at, sent in self.marks if at <= when), default=0)

    def check(self, *, stopping: bool) -> None:
        """What has come is what was sent, with the farewell once in it or not at all."""
        before, farewell, after = bytes(self.received).partition(FAREWELL)
        assert stopping or not farewell, f"{self!r} was told, and nobody had asked to stop"
        echo = before + after
        if not farewell and stopping:
            # It may be under way.
            rest = FAREWELL
            while rest and not echo.endswith(rest):
                rest = rest[:-1]
            echo = echo[: len(echo) - len(rest)]
        assert len(echo) <= self.sent, f"{self!r} received more than it had sent"
        assert echo == self._text(len(echo)), f"{self!r}: bytes lost, torn or out of order"
