"""The goodbye on a loop: which client is at rest."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from aio.scene import Scene
from graced.aio.session import _JIFFY
from graced.handlers.asynchronous import COROUTINE
from graced.loop.policy import LONGEST_PAUSE
from support import FAREWELL, PATIENCE


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Beating(Echo):
    """Has a timed call under way at all times."""

    interval = 1.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.beat()

    def beat(self) -> None:
        asyncio.get_running_loop().call_later(self.interval, self.beat)


def test_timed_call_that_is_due_after_the_deadline_is_no_answer() -> None:
    with Scene(Beating, farewell=FAREWELL, deadline=time.monotonic() + 0.5) as scene:
        client = scene.connect()
        client.echo(b"hello")
        scene.pool.drain()
        began = time.monotonic()
        client.expect_farewell_alone()
        assert time.monotonic() - began < 0.4


def test_timed_calls_without_end_delay_the_goodbye_to_the_last_part_of_the_drain() -> None:
    class Fast(Beating):
        interval = 0.05

    deadline = time.monotonic() + 2.0
    with Scene(Fast, farewell=FAREWELL, deadline=deadline) as scene:
        client = scene.connect()
        client.echo(b"hello")
        scene.pool.drain()
        client.expect_farewell_alone()
        assert deadline - 0.6 < time.monotonic() < deadline


def test_timed_call_of_a_keepalive_is_no_answer() -> None:
    """One that is due long after it was asked for, and one from before the last request."""

    class Pinging(Echo):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            asyncio.get_running_loop().call_later(LONGEST_PAUSE - 1, print)
            asyncio.get_running_loop().call_later(LONGEST_PAUSE + 1, print)

    with Scene(Pinging, farewell=FAREWELL, deadline=time.monotonic() + 3600) as scene:
        client = scene.connect()
        # Time itself is what the test is about: the kernel tells when the client spoke in ticks.
        time.sleep(2 * _JIFFY)
        client.echo(b"hello")
        scene.pool.drain()
        began = time.monotonic()
        client.expect_farewell_alone()
        assert time.monotonic() - began < 1.0


def test_timed_call_that_is_due_in_this_moment_is_an_answer() -> None:
    """The look at the client comes first, with both due in the same turn of the loop."""

    class Late(Echo):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            loop = asyncio.get_running_loop()
            loop.call_later(0.2, self.transport.write, b"world")
            # The loop is held up over the moment at which the goodbye looks, and the answer is due.
            loop.call_later(0.15, time.sleep, 0.1)

    with Scene(Late, farewell=FAREWELL, deadline=time.monotonic() + 3600, gap=0.18) as scene:
        client = scene.connect()
        client.echo(b"hello")
        scene.pool.drain()
        assert client.recv() == b"world"
        client.expect_farewell_alone()


def test_timed_call_of_a_client_that_was_not_read_for_the_gap_is_an_answer() -> None:
    """The client speaks before the gap is over, in which it would be told."""
    asked = threading.Event()

    class Parts(Echo):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if data == b"parts":
                asyncio.get_running_loop().call_later(1.25, self.transport.write, b"world")
                asked.set()

    with Scene(Parts, deadline=time.monotonic() + 3600, gap=0.5) as scene:
        client = scene.connect()
        client.echo(b"hello")
        scene.pool.drain()
        scene.settle()
        (session,) = scene.pool._clients.present()
        assert session.hold
        client.echo(b"parts")
        assert asked.wait(PATIENCE)
        assert client.recv_to_end() == b"world"


def test_cancelled_timed_call_is_no_answer() -> None:
    class Cancelled(Echo):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            asyncio.get_running_loop().call_later(1, print).cancel()

    with Scene(Cancelled, farewell=FAREWELL, deadline=time.monotonic() + 3600) as scene:
        client = scene.connect()
        client.echo(b"hello")
        scene.pool.drain()
        client.expect_farewell_alone()


def test_executor_at_work_is_an_answer() -> None:
    go_on = threading.Event()

    class Slow(Echo):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.task = asyncio.get_running_loop().create_task(self.answer())

        async def answer(self) -> None:
            await asyncio.to_thread(go_on.wait)
            self.transport.write(b"world")

    with Scene(Slow, farewell=FAREWELL) as scene:
        client, other = scene.connect(), scene.connect()
        client.echo(b"hello")
        scene.pool.drain()
        # A look at all clients has come and gone.
        other.expect_farewell_alone()
        go_on.set()
        assert client.recv() == b"world"
        client.expect_farewell_alone()
        scene.end_executor()


def test_coroutine_with_half_a_message_is_not_at_rest() -> None:
    async def lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line.upper())

    with Scene(lines, COROUTINE, farewell=FAREWELL) as scene:
        client, other = scene.connect(), scene.connect()
        # The whole line and the beginning of the next arrive together.
        client.send(b"one\ntw")
        assert client.recv_exactly(4) == b"ONE\n"
        scene.pool.drain()
        other.expect_farewell_alone()
        client.send(b"o\n")
        assert client.recv() == b"TWO\n"
        client.expect_farewell_alone()


def test_coroutine_that_waits_with_a_timeout_is_at_rest() -> None:
    async def patient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                data = await asyncio.wait_for(reader.read(100), 0.3)
            except TimeoutError:
                continue
            if not data:
                return
            writer.write(data)

    with Scene(patient, COROUTINE, deadline=time.monotonic() + 3600) as scene:
        client = scene.connect()
        client.echo(b"hello")
        scene.pool.drain()
        assert client.recv_to_end() == b""
        client.close()
        assert scene.closed.get(timeout=PATIENCE) == "at rest"


def test_client_of_another_protocol_gets_no_farewell() -> None:
    """As after STARTTLS: the bytes would stand in the middle of other words."""

    class Switching(Echo):
        def data_received(self, data: bytes) -> None:
            successor = Echo()
            successor.connection_made(self.transport)
            self.transport.set_protocol(successor)
            self.transport.write(data)

    with Scene(Switching, farewell=FAREWELL) as scene:
        client = scene.connect()
        client.echo(b"hello")
        client.echo(b"hello")
        scene.pool.drain()
        assert client.recv_to_end() == b""


def test_client_that_is_read_again_is_told_then() -> None:
    class Pausing(Echo):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(0.2, self.transport.resume_reading)

    with Scene(Pausing, farewell=FAREWELL, deadline=time.monotonic() + 10) as scene:
        client = scene.connect()
        client.echo(b"hello")
        client.send(b"more")
        scene.pool.drain()
        assert client.recv() == b"more"
        client.expect_farewell_alone()
