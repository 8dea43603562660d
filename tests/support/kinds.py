"""Handlers with callbacks, of the kind that $KIND names: ``stream`` or ``asyncio``.

One class for both kinds, for ``--handler support.kinds:NAME``.
"""

from __future__ import annotations

import asyncio
import os
import select
import socketserver
from typing import Any

from graced import StreamProtocol

HERE = "support.kinds"
KIND = os.environ.get("KIND", "stream")
CHUNK = bytes(range(256)) * 1024
LAST_WORDS = b"that is all"
_PROTOCOL, _BUFFERED = {
    "asyncio": (asyncio.Protocol, asyncio.BufferedProtocol),
    "blocking": (socketserver.BaseRequestHandler, object),
    "stream": (StreamProtocol, StreamProtocol),
}[KIND]
Base: Any = _PROTOCOL
BufferedBase: Any = _BUFFERED


class Echo(Base):  # type: ignore[misc]
    """Says what it hears."""

    transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def call_later(self, delay: float, callback: Any, *args: Any) -> None:
        owner: Any = self.transport if KIND == "stream" else asyncio.get_running_loop()
        owner.call_later(delay, callback, *args)


class BufferedEcho(BufferedBase):  # type: ignore[misc]
    """The same with a buffer of its own."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.buffer = bytearray(1000)

    def get_buffer(self, _hint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, length: int) -> None:
        self.transport.write(self.buffer[:length])


class TellingEcho(Echo):
    """Declares the farewell of the built-in echo."""

    farewell = b"SHUTDOWN"


class Named(Echo):
    """Has a farewell for each client, and takes its name from the first message."""

    name = b""

    def data_received(self, data: bytes) -> None:
        self.name = data
        super().data_received(data)

    def farewell(self) -> bytes | None:
        return b"goodbye " + self.name if self.name else None


class Lines(Echo):
    """Greets, answers whole lines in capitals, and finishes in its own words."""

    rest = b""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.write(b"hello\n")

    def data_received(self, data: bytes) -> None:
        *lines, self.rest = (self.rest + data).split(b"\n")
        self.transport.writelines([line.upper() + b"\n" for line in lines])

    def eof_received(self) -> None:
        self.transport.write(b"goodbye " + self.rest)


class MovableLines(Lines):
    """Carries half a line over a restart, and greets nobody twice."""

    def connection_made(self, transport: Any) -> None:
        Echo.connection_made(self, transport)

    def save(self) -> bytes:
        return self.rest

    def restore(self, state: bytes) -> None:
        self.rest = state


class Parts(Echo):
    """Answers each message in three parts, with pauses that are longer than the gap."""

    PAUSE = 0.4

    def data_received(self, _data: bytes) -> None:
        self.say(0)

    def say(self, number: int) -> None:
        self.transport.write(b"part %d\n" % number)
        if number < 2:
            self.call_later(self.PAUSE, self.say, number + 1)


class Failing(Echo):
    """Fails in the callback that the client names."""

    dislikes_end = False

    def data_received(self, data: bytes) -> None:
        if data == b"data":
            raise ValueError("data is not nice")
        if data == b"exit":
            raise SystemExit("data is not nice")
        if data == b"block":
            # For ever, and in C: the frame that the warning names is this one.
            select.poll().poll()
        if data == b"later":
            self.call_later(0, self.fail)
        self.dislikes_end = data == b"end"
        super().data_received(data)

    def eof_received(self) -> None:
        if self.dislikes_end:
            raise ValueError("data is not nice")

    def connection_lost(self, error: BaseException | None) -> None:
        if KIND == "stream" and isinstance(error, ValueError):
            raise KeyError("not logged: the client has its record")

    @staticmethod
    def fail() -> None:
        raise ValueError("later is not nice")


class Refusing(Echo):
    def connection_made(self, _transport: Any) -> None:
        raise ValueError("data is not nice")


class Flood(Echo):
    """Answers a byte with more than any client takes at once."""

    SIZE = 32 * 1024 * 1024

    def data_received(self, _data: bytes) -> None:
        self.transport.write(b"x" * self.SIZE)


class Counter(Echo):
    """Answers each message with its number, and ``fill`` with more than its client takes.

    Also as a blocking handler.
    """

    number = 0
    is_paused = False

    def data_received(self, data: bytes) -> None:
        self.number += 1
        if data == b"fill":
            self.fill()
        else:
            self.transport.write(b"%d" % self.number)

    def fill(self) -> None:
        chunks = 0
        while self.transport.get_write_buffer_size() < len(CHUNK):
            self.transport.write(CHUNK)
            chunks += 1
        self.transport.write(LAST_WORDS)
        print(f"chunks: {chunks}", flush=True)

    def pause_writing(self) -> None:
        print(f"paused, knowing {self.number}", flush=True)
        self.is_paused = True

    def resume_writing(self) -> None:
        assert self.is_paused
        self.is_paused = False

    def handle(self) -> None:
        while self.request.recv(1024):
            self.number += 1
            self.request.sendall(b"%d" % self.number)

    def save(self) -> bytes:
        if self.transport:
            print(f"unsent: {self.transport.get_write_buffer_size()}", flush=True)
        return b"%d" % self.number

    def restore(self, state: bytes) -> None:
        self.number = int(state)


class Other(Counter):
    """Another one, by its name."""
