"""A client of the model: what it has sent and received, and what it may therefore expect."""

from __future__ import annotations

import socket
import struct
import time
from itertools import count
from random import Random

from support import FAREWELL

_numbers = count()
_TEXT = bytes(Random(862).choices(b"abcdefghijklmnopqrstuvwxyz0123456789", k=1 << 22))
"""What is sent has no letter of the farewell in it, so that there is no doubt where that is."""


class Peer:
    """One connection, never waiting; the times are monotonic."""

    def __init__(self, sock: socket.socket, *, late: bool) -> None:
        """`late`: connected when the server had been told to stop."""
        sock.setblocking(False)
        self.sock = sock
        self.late = late
        self.since = time.monotonic()
        self.left_at = 0.0
        """When it closed its end."""
        self.sent = 0
        self.marks: list[tuple[float, int]] = []
        """When how much had been sent."""
        self.received = bytearray()
        self.reads = True
        self.writes = True
        self.gone = False
        """It broke off or left, and expects nothing any more."""
        self.ended = ""
        """How the server closed: ``end`` or ``reset``."""
        self.ended_at = 0.0
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

    def read(self) -> None:
        """All that is there."""
        while self.reads and not (self.gone or self.ended):
            try:
                data = self.sock.recv(1 << 20)
            except BlockingIOError:
                return
            except ConnectionError:
                self._end("reset")
                return
            if not data:
                self._end("end")
                return
            self.received += data

    def _end(self, how: str) -> None:
        self.ended = how
        self.ended_at = self.left_at = time.monotonic()
        self.sock.close()

    def half_close(self) -> None:
        """Send no more."""
        self.writes = False
        self.left_at = time.monotonic()
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            # Closed by the server, as above.
            return

    def close(self) -> None:
        """Leave, whatever may still be coming."""
        self.gone = True
        self.left_at = time.monotonic()
        self.sock.close()

    def reset(self) -> None:
        """Break off, with a RST where the kind of socket has one."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    # What came of it.

    @property
    def told(self) -> bool:
        """Whether it has heard the farewell."""
        return FAREWELL in self.received

    @property
    def echoed(self) -> int:
        """How many of its bytes have come back."""
        return len(self.received) - (len(FAREWELL) if self.told else 0)

    @property
    def here(self) -> bool:
        """Whether anything may still come."""
        return not (self.gone or self.ended)

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
