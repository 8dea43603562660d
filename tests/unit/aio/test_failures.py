"""Exceptions of asyncio handlers that would end a process."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import pytest

from aio.scene import Scene
from graced.handlers.asynchronous import COROUTINE
from support import PATIENCE


class Exits(asyncio.Protocol):
    """Ends the program in the way that the client names."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        if data == b"at once":
            sys.exit(3)
        elif data == b"soon":
            loop.call_soon(sys.exit, 3)
        elif data == b"later":
            loop.call_later(0.001, sys.exit, 3)
        elif data == b"task":
            self.task = loop.create_task(self.exit())
            # Else asyncio logs, in the middle of a later test, that nobody has asked for it.
            self.task.add_done_callback(lambda task: task.exception())
        else:
            self.transport.write(data)

    async def exit(self) -> None:
        await asyncio.sleep(0)
        sys.exit(3)


@pytest.mark.parametrize("word", [b"at once", b"soon", b"later", b"task"])
def test_callback_that_exits_ends_its_client_only(word: bytes) -> None:
    with Scene(Exits) as scene:
        client, other = scene.connect(), scene.connect()
        for each in (client, other):
            each.echo(b"hello")
        client.send(word)
        assert client.recv_to_end() == b""
        assert scene.closed.get(timeout=PATIENCE) == "handler failed"
        other.echo(b"hello")
        assert scene.closed.empty()


def test_coroutine_that_exits_ends_its_client_only() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (data := await reader.read(100)) != b"exit":
            writer.write(data)
        sys.exit(3)

    with Scene(handle, COROUTINE) as scene:
        client, other = scene.connect(), scene.connect()
        client.send(b"exit")
        assert client.recv_to_end() == b""
        assert scene.closed.get(timeout=PATIENCE) == "handler failed"
        other.echo(b"hello")
        assert scene.closed.empty()


def test_exit_of_nobody_is_not_that_of_a_client_without_a_transport() -> None:
    connected = threading.Event()

    with Scene(Exits) as scene:
        loop = scene.pool.event_loop.loop

        def report() -> None:
            """As uvloop does: nothing says whose call it was."""
            connected.wait(PATIENCE)
            loop.call_exception_handler({"message": "exit", "exception": SystemExit(3)})

        scene.pool.event_loop.post(report)
        client = scene.connect()
        connected.set()
        client.echo(b"hello")
        client.finish()
        assert client.recv_to_end() == b""
        assert scene.closed.get(timeout=PATIENCE) == "closed by the client"
