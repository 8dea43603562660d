"""The pool of threads for blocking handlers: which clients are handed over."""

from __future__ import annotations

import select
import signal
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from graced.handlers import finder
from graced.handlers.handler_socket import HandlerSocket
from graced.signals import NUDGE
from handlers.scene import Scene, Stage, connect_by_tcp, echo
from support import FAREWELL, PATIENCE
from support import Client as Other


class Counting(socketserver.BaseRequestHandler):
    """Answers each message of its client with the number of the message."""

    number = 0

    def handle(self) -> None:
        while self.request.recv(100):
            self.number += 1
            self.request.sendall(b"%d" % self.number)

    def save(self) -> bytes:
        return b"%d" % self.number

    def restore(self, state: bytes) -> None:
        self.number = int(state)


class Busy(Counting):
    """Does not read until `gate` is set."""

    gate = threading.Event()

    def handle(self) -> None:
        self.gate.wait()
        super().handle()


@pytest.fixture
def _nudged() -> Iterator[None]:
    """Catch the signal that interrupts a read, as `SignalInbox` does."""
    before = signal.signal(NUDGE, lambda _signum, _frame: None)
    yield
    signal.signal(NUDGE, before)


def runs(factory: type[Any], monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Any], None]:
    """The function that runs a handler in a service."""
    module: Any = ModuleType("a_plugin")
    module.Mine = factory
    monkeypatch.setitem(sys.modules, "a_plugin", module)
    found = finder.find("a_plugin:Mine", FAREWELL)
    assert found
    assert found.movable
    made = found.factory

    def run(request: Any, address: Any) -> None:
        made(request, address, None)

    return run


def ask(other: Other, number: int) -> None:
    other.send(b"how many?")
    assert other.recv() == b"%d" % number


def expect_farewell(scene: Scene, other: Other) -> None:
    scene.pool.drain()
    poll = select.poll()
    poll.register(other.sock, select.POLLIN)
    # The client's kernel acknowledges bytes after a moment, and the farewell is not sent before.
    deadline = time.monotonic() + PATIENCE
    while not poll.poll(50):
        assert time.monotonic() < deadline, "no farewell"
        scene.pool.say_goodbyes()
    other.expect_farewell_alone()


COME = pytest.mark.parametrize("come", [Scene.connect, connect_by_tcp], ids=["unix", "tcp"])


@COME
@pytest.mark.usefixtures("_nudged")
def test_handler_in_read_goes_on_in_next_process(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, come: Callable[[Scene], Other]
) -> None:
    run = runs(Counting, monkeypatch)
    here, there = stage(run, movable=True), stage(run, movable=True)
    clients = [come(here) for _ in range(5)]
    for number in (1, 2, 3):
        for client in clients:
            ask(client, number)
    moved = here.pool.freeze(PATIENCE)
    assert [client.saved for client in moved] == [b"3"] * 5
    assert [client.echoed for client in moved] == [3] * 5
    assert here.pool.join(PATIENCE) == 0
    assert here.closed.empty()
    clients[0].send(b"meanwhile")
    for each in moved:
        there.pool.start(each)
    assert clients[0].recv() == b"4"
    for client in clients[1:]:
        ask(client, 4)
    for client in clients:
        ask(client, 5)
        client.close()
    assert {there.next_reason() for _ in clients} == {"handler ended"}
    assert [client.echoed for client in moved] == [5] * 5


@COME
@pytest.mark.usefixtures("_nudged")
def test_handler_that_does_not_read_stays(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, come: Callable[[Scene], Other]
) -> None:
    Busy.gate.clear()
    scene = stage(runs(Busy, monkeypatch), movable=True)
    client = come(scene)
    client.send(b"how many?")
    try:
        assert scene.pool.freeze(0.1) == []
    finally:
        Busy.gate.set()
    assert client.recv() == b"1"
    ask(client, 2)
    expect_farewell(scene, client)


@COME
def test_handler_without_save_stays(stage: Stage, come: Callable[[Scene], Other]) -> None:
    scene = stage()
    client = come(scene)
    client.echo(b"hello")
    assert scene.pool.freeze(PATIENCE) == []
    client.echo(b"hello, you")
    expect_farewell(scene, client)


@COME
@pytest.mark.parametrize("movable", [True, False])
@pytest.mark.usefixtures("_nudged")
def test_client_that_waits_for_thread_has_no_state(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, come: Callable[[Scene], Other], movable: bool
) -> None:
    run = runs(Counting, monkeypatch) if movable else echo
    here, there = stage(run, max_threads=1, movable=movable), stage(echo)
    served = come(here)
    served.send(b"?")
    assert len(served.recv()) == 1
    waiting = come(here)
    waiting.send(b"hello")
    moved = here.pool.freeze(PATIENCE)
    assert [client.saved for client in moved] == [None, b"1"][: 1 + movable]
    for each in moved[1:]:
        each.sock.close()
    there.pool.start(moved[0])
    assert waiting.recv() == b"hello"


class Context(Counting):
    """Uses its socket as a context manager."""

    def handle(self) -> None:
        with self.request:
            super().handle()


class Ending(Counting):
    """Ends its conversation by all means, whatever has ended its reads."""

    def handle(self) -> None:
        try:
            super().handle()
        finally:
            self.request.sendall(b"bye")
            assert self.request.send(b"bye") == 3
            assert self.request.sendmsg([b"b", b"ye"]) == 3
            self.request.shutdown(socket.SHUT_RDWR)
            self.request.close()


class Failing(Counting):
    """Cannot save its state."""

    saved: Any = 7

    def save(self) -> bytes:
        if isinstance(self.saved, BaseException):
            raise self.saved
        return self.saved  # type: ignore[no-any-return]


class Closing(Counting):
    """Closes its socket, and reads when it is to be handed over."""

    frozen = threading.Event()

    def handle(self) -> None:
        self.request.recv(100)
        self.request.close()
        assert self.frozen.wait(PATIENCE)
        self.request.recv(100)


@COME
@pytest.mark.usefixtures("_nudged")
@pytest.mark.parametrize("factory", [Context, Ending])
def test_handler_that_ends_its_conversation_by_all_means_goes_on_in_next_process(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    come: Callable[[Scene], Other],
    factory: type[Counting],
) -> None:
    run = runs(factory, monkeypatch)
    here, there = stage(run, movable=True), stage(run, movable=True)
    client = come(here)
    ask(client, 1)
    (moved,) = here.pool.freeze(PATIENCE)
    assert moved.saved == b"1"
    there.pool.start(moved)
    ask(client, 2)
    client.finish()
    assert client.recv_to_end() in {b"", 3 * b"bye"}
    client.close()
    assert there.next_reason() == "handler ended"


@COME
@pytest.mark.usefixtures("_nudged")
@pytest.mark.parametrize("saved", [7, "7", None, LookupError(), SystemExit(1)])
def test_client_of_handler_that_cannot_save_is_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, come: Callable[[Scene], Other], saved: object
) -> None:
    monkeypatch.setattr(Failing, "saved", saved)
    scene = stage(runs(Failing, monkeypatch), movable=True)
    client = come(scene)
    ask(client, 1)
    assert scene.pool.freeze(PATIENCE) == []
    client.expect_farewell_alone()
    client.expect_end()
    client.close()
    assert scene.next_reason() == "handler ended"


@COME
@pytest.mark.usefixtures("_nudged")
def test_handler_that_has_closed_its_socket_is_not_handed_over(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, come: Callable[[Scene], Other]
) -> None:
    freeze = HandlerSocket.freeze

    def freeze_and_tell(request: HandlerSocket) -> None:
        freeze(request)
        Closing.frozen.set()

    Closing.frozen.clear()
    monkeypatch.setattr(HandlerSocket, "freeze", freeze_and_tell)
    scene = stage(runs(Closing, monkeypatch), movable=True)
    client = come(scene)
    client.send(b"how many?")
    client.expect_end()
    assert scene.pool.freeze(PATIENCE) == []
    assert scene.next_reason() == "handler ended"
