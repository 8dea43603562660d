"""The pool of asyncio handlers: handover, restoring, deadline."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from aio.scene import Scene
from graced.aio import pool as pool_module
from graced.loop.client import Client as ServedClient
from support import PATIENCE


class Echo(asyncio.Protocol):
    state = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.state + data)

    def save(self) -> bytes:
        return b"saved "

    def restore(self, state: bytes) -> None:
        self.state = state


def close(clients: list[ServedClient]) -> None:
    for client in clients:
        client.sock.close()


# The handover.


def test_connection_outlives_its_transport() -> None:
    with Scene(Echo) as scene:
        client = scene.connect()
        client.echo(b"hello")
        (frozen,) = scene.pool.freeze(PATIENCE)
        assert (frozen.unsent, frozen.saved) == (b"", b"saved ")
        scene.settle()
        assert type(frozen.sock).__name__ == "socket"
        frozen.sock.send(b"still there")
        assert client.recv() == b"still there"
        close([frozen])
        assert scene.closed.empty()


def test_client_that_is_just_coming_is_taken() -> None:
    with Scene(Echo) as scene:
        for _ in range(20):
            scene.connect()
            frozen = scene.pool.freeze(PATIENCE)
            close(frozen)
            assert len(frozen) == 1


def test_unsent_bytes_are_taken() -> None:
    class Flood(Echo):
        def data_received(self, _data: bytes) -> None:
            self.transport.write(bytes(range(250)) * 100_000)

    with Scene(Flood) as scene:
        client = scene.connect()
        client.send(b"a")
        received = client.recv_exactly(1)
        (frozen,) = scene.pool.freeze(PATIENCE)
        assert (len(frozen.unsent) > 20_000_000, frozen.saved) == (True, b"saved ")
        scene.pool.start(frozen)
        received += client.recv_exactly(25_000_000 - 1)
        assert received == bytes(range(250)) * 100_000


def test_loop_that_is_held_up_keeps_its_clients() -> None:
    go_on = threading.Event()
    with Scene(Echo) as scene:
        client = scene.connect()
        client.echo(b"hello")
        scene.pool.event_loop.post(go_on.wait)
        began = time.monotonic()
        assert scene.pool.freeze(0.1) == []
        assert time.monotonic() - began < 1.0
        go_on.set()
        client.echo(b"hello")


def test_clients_of_a_handler_that_saves_too_slowly_are_served_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on = threading.Event()

    class Slow(Echo):
        def save(self) -> bytes:
            go_on.wait(PATIENCE)
            return super().save()

    monkeypatch.setattr(pool_module, "SAVE_TIMEOUT", 0.1)
    with Scene(Slow) as scene:
        client = scene.connect()
        client.echo(b"hello")
        assert scene.pool.freeze(PATIENCE) == []
        go_on.set()
        client.send(b"hello")
        assert client.recv_exactly(11) == b"saved hello"


def test_client_with_an_executor_at_work_is_not_taken() -> None:
    go_on = threading.Event()

    class Slow(Echo):
        def data_received(self, _data: bytes) -> None:
            loop = asyncio.get_running_loop()
            self.task = loop.create_task(self.answer())
            self.transport.write(b"1")

        async def answer(self) -> None:
            await asyncio.to_thread(go_on.wait)
            self.transport.write(b"2")

    with Scene(Slow) as scene:
        client = scene.connect()
        client.send(b"a")
        assert client.recv_exactly(1) == b"1"
        assert scene.pool.settle(PATIENCE) == 1
        assert scene.pool.freeze(PATIENCE) == []
        go_on.set()
        assert client.recv_exactly(1) == b"2"
        scene.settle()
        assert scene.pool.settle(PATIENCE) == 0
        scene.end_executor()


@pytest.mark.parametrize("client_is", ["new", "restored"])
def test_work_of_a_restored_client_is_known_as_that_of_a_new_one(client_is: str) -> None:
    go_on = threading.Event()

    class Slow(Echo):
        def data_received(self, _data: bytes) -> None:
            asyncio.get_running_loop().run_in_executor(None, go_on.wait)
            self.transport.write(b"1")

    saved = b"" if client_is == "restored" else None
    with Scene(Slow) as scene:
        scene.pool.restoring.begin()
        client = scene.connect(saved)
        scene.pool.restoring.all_started()
        client.send(b"a")
        assert client.recv_exactly(1) == b"1"
        assert scene.pool.settle(PATIENCE) == 1
        assert scene.pool.freeze(PATIENCE) == []
        go_on.set()
        scene.end_executor()


# Restoring.


class Noting(Echo):
    """Notes what it is told, in a list that a test gives it."""

    heard: list[str]

    def connection_made(self, transport: Any) -> None:
        self.heard.append("made")
        super().connection_made(transport)

    def restore(self, state: bytes) -> None:
        self.heard.append("restored")
        super().restore(state)

    def data_received(self, data: bytes) -> None:
        self.heard.append("data")
        super().data_received(data)

    def pause_writing(self) -> None:
        self.heard.append("pause")

    def resume_writing(self) -> None:
        self.heard.append("resume")


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a `Noting` notes."""
    noted: list[str] = []
    monkeypatch.setattr(Noting, "heard", noted, raising=False)
    return noted


def test_nobody_goes_on_before_all_are_restored(heard: list[str]) -> None:
    with Scene(Noting, on_restored=lambda: heard.append("all")) as scene:
        scene.pool.restoring.begin()
        old = [scene.connect(b"state ", unsent=b"unsent ") for _ in range(2)]
        new = scene.connect()
        for client in (*old, new):
            client.send(b"hello")
        for client in old:
            assert client.recv_exactly(7) == b"unsent "
        scene.settle()
        assert heard == ["made", "restored"] * 2
        scene.pool.restoring.all_started()
        for client in old:
            assert client.recv_exactly(11) == b"state hello"
        assert new.recv_exactly(5) == b"hello"
        assert heard[:5] == ["made", "restored", "made", "restored", "all"]
        assert sorted(heard[5:]) == ["data"] * 3 + ["made"]


def test_handler_learns_of_unsent_bytes_when_it_has_its_state(heard: list[str]) -> None:
    with Scene(Noting) as scene:
        unsent = bytes(20_000_000)
        client = scene.connect(b"state ", unsent=unsent)
        scene.settle()
        assert heard == ["made", "restored", "pause"]
        client.recv_exactly(len(unsent))
        client.send(b"hello")
        assert client.recv_exactly(11) == b"state hello"
        assert heard == ["made", "restored", "pause", "resume", "data"]


def test_new_client_that_waits_for_the_others_is_taken() -> None:
    with Scene(Echo) as scene:
        scene.pool.restoring.begin()
        client = scene.connect()
        scene.settle()
        (frozen,) = scene.pool.freeze(PATIENCE)
        assert frozen.saved is None
        scene.pool.restoring.all_started()
        scene.settle()
        scene.pool.start(frozen)
        client.echo(b"hello")


def test_handler_that_does_not_restore_ends_its_client_only() -> None:
    class Fails(Echo):
        def restore(self, state: bytes) -> None:
            if state == b"bad":
                raise ValueError("bad state")

    with Scene(Fails) as scene:
        scene.pool.restoring.begin()
        bad, good = scene.connect(b"bad"), scene.connect(b"good")
        scene.pool.restoring.all_started()
        good.echo(b"hello")
        assert bad.recv_to_end() == b""
        assert scene.closed.get(timeout=PATIENCE) == "handler failed"


# The deadline.


def test_connections_end_though_the_loop_is_held_up() -> None:
    go_on = threading.Event()
    with Scene(Echo) as scene:
        client = scene.connect()
        client.echo(b"hello")
        scene.pool.event_loop.post(lambda: go_on.wait(PATIENCE))
        assert scene.pool.close_all() == 1
        assert client.recv_to_end() == b""
        assert scene.pool.join(0.01) == 1
        go_on.set()
        assert scene.pool.join(PATIENCE) == 0


def test_client_that_comes_after_the_deadline_is_closed() -> None:
    with Scene(Echo) as scene:
        go_on = threading.Event()
        scene.pool.event_loop.post(lambda: go_on.wait(PATIENCE))
        client = scene.connect()
        closing = threading.Thread(target=scene.pool.close_all, daemon=True)
        closing.start()
        go_on.set()
        assert client.recv_to_end() == b""
        assert scene.closed.get(timeout=PATIENCE) == "deadline"
        closing.join(PATIENCE)
