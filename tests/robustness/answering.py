"""A service that answers requests, for ``--handler robustness.answering:NAME``, and its client.

A request is a line: its number, the length of the answer, padding.  The answer repeats the line,
and has so many bytes behind it.
"""

from __future__ import annotations

import asyncio
import socket
import socketserver
import time
from random import Random
from typing import Any

from graced import StreamProtocol
from robustness.connection import Connection

_TEXT = Random(862).randbytes(1 << 21)


def answer(line: bytes) -> bytes:
    """The answer to a request, both with their end of line."""
    number, length = map(int, line.split(b" ", 2)[:2])
    return line + _TEXT[number : number + length]


class Buffered(socketserver.StreamRequestHandler):
    """Reads ahead."""

    def handle(self) -> None:
        for line in self.rfile:
            if line.endswith(b"\n"):
                self.wfile.write(answer(line))


class Movable(socketserver.BaseRequestHandler):
    """Goes on in the next process."""

    request: socket.socket
    unanswered = b""

    def handle(self) -> None:
        while data := self.request.recv(4096):
            *lines, self.unanswered = (self.unanswered + data).split(b"\n")
            for line in lines:
                self.request.sendall(answer(line + b"\n"))

    def save(self) -> bytes:
        return self.unanswered

    def restore(self, state: bytes) -> None:
        self.unanswered = state


class _Callbacks:
    """Callbacks that answer."""

    transport: Any
    unanswered = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self.unanswered = (self.unanswered + data).split(b"\n")
        self.transport.writelines([answer(line + b"\n") for line in lines])


class _State(_Callbacks):
    """Goes on in the next process."""

    save = Movable.save
    restore = Movable.restore


class Stream(_Callbacks, StreamProtocol):
    pass


class MovableStream(_State, StreamProtocol):
    pass


class Asynchronous(_Callbacks, asyncio.Protocol):
    pass


class MovableAsynchronous(_State, asyncio.Protocol):
    pass


async def coroutine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while (line := await reader.readline()).endswith(b"\n"):
        writer.write(answer(line))
        await writer.drain()


class Asker(Connection):
    """A client that asks."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.last_sent = 0.0
        self._expected = bytearray()
        self._asked: list[tuple[int, int]] = []
        """Of each request, the place of its end in what is sent, and of the end of its answer."""
        self._outbox = bytearray()
        self._held = bytearray()
        self._number = 0

    def __repr__(self) -> str:
        state = "gone" if self.gone else self.ended or "there"
        deaf = "" if self.reads else "deaf "
        return (
            f"<{deaf}asker, {self.sent} bytes sent, {len(self._held)} held back,"
            f" {len(self.received)} of {self.owed} received, {state}>"
        )

    def ask(self, lengths: list[int], padding: int, *, cut: bool) -> None:
        """Send requests for answers of these lengths, the last one only in part if `cut`."""
        self.complete()
        for length in lengths:
            line = b"%d %d %s\n" % (self._number, length, b"x" * padding)
            self._number += 1
            self._outbox += line
            self._expected += answer(line)
            self._asked.append((self.sent + len(self._outbox), len(self._expected)))
        if cut:
            keep = len(line) // 2
            self._held = self._outbox[-keep:]
            del self._outbox[-keep:]
        self.flush()

    def complete(self) -> None:
        """Send the rest of a request of which a part has been sent."""
        self._outbox += self._held
        self._held = bytearray()
        self.flush()

    def flush(self) -> None:
        while self._outbox and self.here and self.writes:
            try:
                number = self.sock.send(self._outbox)
            except BlockingIOError:
                return
            except OSError:
                # Closed by the server; how, is found by reading.
                self.writes = False
                return
            del self._outbox[:number]
            self.sent += number
            self.last_sent = time.monotonic()

    @property
    def is_flushing(self) -> bool:
        return bool(self._outbox) and self.here and self.writes

    def read(self) -> None:
        """Take all that is there, and check that it is the beginning of the right answers."""
        before = len(self.received)
        super().read()
        right = self._expected[before : len(self.received)]
        assert self.received[before:] == right, f"{self!r}: wrong from byte {before} on"

    def half_close(self) -> None:
        self.complete()
        if not self._outbox and self.writes:
            self.writes = False
            self.sock.shutdown(socket.SHUT_WR)

    @property
    def owed(self) -> int:
        """Bytes of the answers to all whole requests that have been sent."""
        return max((answer for ask, answer in self._asked if ask <= self.sent), default=0)

    @property
    def answered(self) -> bool:
        return len(self.received) >= self.owed

    @property
    def at_rest(self) -> bool:
        """Whether all that was sent is answered, and the client has the answers."""
        whole = not self.sent or any(ask == self.sent for ask, _ in self._asked)
        return whole and self.answered and not self._outbox
