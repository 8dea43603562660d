"""asyncio handlers for the tests."""

from __future__ import annotations

import asyncio
import functools
import select
import time
from typing import Any, ClassVar

import graced

HERE = "support.asynchronous"


class Echo(asyncio.Protocol):
    """Says what it hears."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(10_000):
        writer.write(data)
        await writer.drain()


class Called:
    """An object that is called."""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await echo(reader, writer)


called = Called()
partly = functools.partial(Echo)


class Polite(Echo):
    """Declares the farewell of the built-in echo, and reads no client that takes nothing."""

    farewell = b"SHUTDOWN"

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


class MovableEcho(Polite):
    """Goes on in another process."""

    def save(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        assert state == b""


class Parts(asyncio.Protocol):
    """Answers each message in three parts, with pauses that are longer than the gap."""

    PAUSE = 0.4
    how = "timer"

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, _data: bytes) -> None:
        self.task = asyncio.get_running_loop().create_task(self.answer())

    async def answer(self) -> None:
        for number in range(3):
            self.transport.write(b"part %d\n" % number)
            if number < 2:
                await self.pause()

    async def pause(self) -> None:
        await asyncio.sleep(self.PAUSE)


class ExecutedParts(Parts):
    async def pause(self) -> None:
        await asyncio.to_thread(time.sleep, self.PAUSE)


async def parts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.readline():
        for number in range(3):
            writer.write(b"part %d\n" % number)
            if number < 2:
                await asyncio.sleep(Parts.PAUSE)


async def last_words(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says how it has ended, in the log."""
    try:
        await reader.read()
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise


async def stubborn(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Does not let itself be cancelled."""
    await reader.readline()
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


class Failing(Echo):
    """Fails in the callback that the client names."""

    def data_received(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        if data == b"data":
            raise ValueError("data is not nice")
        if data == b"later":
            loop.call_later(0, self.fail)
        elif data == b"exit":
            raise SystemExit(3)
        elif data == b"block":
            # For ever, and in C: the frame that the warning names is this one.
            select.poll().poll()
        else:
            super().data_received(data)

    def fail(self) -> None:
        raise ValueError("later is not nice")


async def failing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        if data == b"data":
            raise ValueError("data is not nice")
        writer.write(data)


async def exact(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echoes messages of four bytes."""
    while True:
        writer.write(await reader.readexactly(4))


class Flood(Echo):
    """Answers a byte with more than any client takes at once."""

    SIZE = 32 * 1024 * 1024

    def data_received(self, _data: bytes) -> None:
        self.transport.write(b"x" * self.SIZE)


class Counter(asyncio.Protocol):
    """Counts the messages of its client, also over a restart."""

    SIZE = 32 * 1024 * 1024
    members: ClassVar[set[Counter]]
    number = 0

    @classmethod
    def startup(cls, server: Any) -> None:
        cls.members = set()
        print(
            f"startup {asyncio.get_running_loop().is_running()} {dict(server.options)}", flush=True
        )

    @classmethod
    def restored(cls, _server: Any) -> None:
        print(f"restored {len(cls.members)}", flush=True)

    @classmethod
    def shutdown(cls, _server: Any) -> None:
        print(f"shutdown {len(cls.members)}", flush=True)

    options = {"first": graced.Option(1, "the first number", low=0, high=1000)}  # noqa: RUF012

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.members.add(self)

    def connection_lost(self, _error: BaseException | None) -> None:
        self.members.discard(self)

    def data_received(self, data: bytes) -> None:
        self.number += 1
        if data == b"flood":
            self.transport.write(bytes(range(256)) * (self.SIZE // 256))
        else:
            self.transport.write(b"%d\n" % self.number)

    def save(self) -> bytes:
        return b"%d" % self.number

    def restore(self, state: bytes) -> None:
        self.number = int(state)


class Unsaved(Counter):
    def save(self) -> bytes:
        raise ValueError("nothing to save")


class Tasks(Echo):
    """Makes a task at its start, in the loop."""

    task: ClassVar[asyncio.Task[None]]

    @classmethod
    def startup(cls, _server: Any) -> None:
        cls.task = asyncio.get_running_loop().create_task(cls.work())

    @classmethod
    async def work(cls) -> None:
        await asyncio.Event().wait()


def plain_function() -> Echo:
    return Echo()


class Needy(Echo):
    def __init__(self, owner: object) -> None:
        self.owner = owner


class Odd(Echo):
    async def data_received(self, data: bytes) -> None:  # type: ignore[override]
        self.transport.write(data)


async def one_argument(_reader: asyncio.StreamReader) -> None:
    return
