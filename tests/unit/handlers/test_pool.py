"""Threads for handlers that block."""

from __future__ import annotations

import logging
import select
import signal
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from queue import Queue
from types import ModuleType
from typing import Any

import pytest

from graced.handlers import registry
from graced.handlers.handler_socket import HandlerSocket
from graced.handlers.pool import HandlerPool
from graced.loop.client import Client
from graced.loop.phase import ANSWERED, AWAITING_FIRST_BYTE, NOT_TOLD
from graced.signals import NUDGE
from support import FAREWELL, PATIENCE
from support import Client as Other


class Scene:
    """A pool, its clients, and what has become of them."""

    def __init__(
        self, run: Callable[[Any, Any], None], *, max_threads: int, gap: float, movable: bool
    ) -> None:
        self.left: Queue[tuple[Client, str]] = Queue()
        self.others: list[Other] = []
        self.pool = HandlerPool(
            run,
            greet=False,
            max_threads=max_threads,
            movable=movable,
            farewell=FAREWELL,
            gap=gap,
            stall_timeout=0.0,
            leave=lambda client, reason: self.left.put((client, reason)),
        )

    def come(self, *, told: int = NOT_TOLD) -> Other:
        """A new client, which the pool has taken."""
        ours, theirs = socket.socketpair()
        client = Client(ours, "host", len(self.others), AWAITING_FIRST_BYTE, 0.0)
        client.told = told
        self.others.append(Other(theirs))
        self.pool.take(client)
        return self.others[-1]

    def gone(self) -> str:
        """Why the next one that left did so."""
        return self.left.get(timeout=PATIENCE)[1]


def echo(request: Any, _address: Any) -> None:
    while data := request.recv(100):
        request.sendall(data)


Stage = Callable[..., Scene]


@pytest.fixture
def stage() -> Iterator[Stage]:
    scenes: list[Scene] = []

    def stage(
        run: Callable[[Any, Any], None] = echo,
        max_threads: int = 10,
        gap: float = 0.0,
        movable: bool = False,
    ) -> Scene:
        scenes.append(Scene(run, max_threads=max_threads, gap=gap, movable=movable))
        return scenes[-1]

    yield stage
    for scene in scenes:
        for other in scene.others:
            other.close()
        scene.pool.hang_up()
        assert scene.pool.join(PATIENCE) == 0


def test_each_client_has_a_handler(stage: Stage) -> None:
    scene = stage()
    one, two = scene.come(), scene.come()
    for client in (one, two, one):
        client.echo(b"hello")
    one.close()
    assert scene.gone() == "handler ended"
    two.echo(b"hello")


def test_clients_beyond_the_limit_are_served_in_turn(stage: Stage) -> None:
    scene = stage(max_threads=1)
    clients = [scene.come() for _ in range(3)]
    for client in clients:
        client.send(b"hello")
    for client in clients:
        assert client.recv_exactly(5) == b"hello"
        client.close()
        assert scene.gone() == "handler ended"


def test_an_exception_is_logged_with_the_client(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(request: Any, _address: Any) -> None:
        raise ValueError("as expected")

    scene = stage(fail)
    assert scene.come().recv_to_end() == b""
    assert scene.gone() == "handler failed"
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "host:0" in record.getMessage()
    assert "as expected" in record.getMessage()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_no_exception_ends_more_than_its_handler(stage: Stage, error: BaseException) -> None:
    def fail(request: Any, _address: Any) -> None:
        raise error

    scene = stage(fail, max_threads=1)
    for _ in range(3):
        assert scene.come().recv_to_end() == b""
        assert scene.gone() == "handler failed"


def test_an_exception_that_cannot_be_shown(stage: Stage) -> None:
    class Nasty(Exception):
        def __str__(self) -> str:
            raise ValueError

        __repr__ = __str__

    def fail(request: Any, _address: Any) -> None:
        raise Nasty

    scene = stage(fail)
    assert scene.come().recv_to_end() == b""
    assert scene.gone() == "handler failed"


@pytest.mark.parametrize("error", [ConnectionResetError(), BrokenPipeError()])
def test_a_client_that_breaks_off_is_no_failure(
    stage: Stage, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(request: Any, _address: Any) -> None:
        raise error

    scene = stage(fail)
    scene.come()
    assert scene.gone() == "reset by the client"
    assert not caplog.records


def test_a_handler_may_close_its_request_itself(stage: Stage) -> None:
    scene = stage(lambda request, _address: request.close())
    assert scene.come().recv_to_end() == b""
    assert scene.gone() == "handler ended"


def test_the_drain_tells_each_once(stage: Stage) -> None:
    scene = stage()
    one, two = scene.come(), scene.come()
    one.echo(b"hello")
    scene.pool.drain()
    for _ in range(3):
        scene.pool.remind()
    for client in (one, two):
        client.expect_farewell_alone()
        client.echo(b"hello")
        client.finish()
        assert client.recv_to_end() == b""
        client.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_who_was_told_while_it_waited_is_not_told_again(stage: Stage, when: str) -> None:
    """Whether the pool has heard of the drain before the client comes to it or after."""
    scene = stage()
    if when == "before":
        scene.pool.drain()
    client = scene.come(told=ANSWERED)
    scene.pool.drain()
    scene.pool.remind()
    scene.pool.remind()
    client.echo(b"hello")
    client.finish()
    assert client.recv_to_end() == b""


def test_who_comes_in_the_drain_is_told(stage: Stage) -> None:
    scene = stage()
    scene.pool.drain()
    client = scene.come()
    scene.pool.remind()
    client.expect_farewell_alone()


def test_reminding_often_is_no_reason_to_insist(stage: Stage) -> None:
    """Each I/O thread reminds."""
    gate = threading.Event()

    def speak(request: Any, _address: Any) -> None:
        request.sendall(b"hello")
        assert gate.wait(PATIENCE)
        request.close()

    scene = stage(speak, gap=3600.0)
    client = scene.come()
    assert client.recv() == b"hello"
    scene.pool.drain()
    for _ in range(3):
        scene.pool.remind()
    gate.set()
    client.expect_end()


@pytest.mark.parametrize("come", ["unix", "tcp"])
def test_who_is_let_go_in_the_drain_before_it_was_told_is_told(stage: Stage, come: str) -> None:
    gate = threading.Event()

    def last_word(request: Any, _address: Any) -> None:
        assert gate.wait(PATIENCE)
        request.sendall(b"bye")

    scene = stage(last_word, gap=0.1)
    client = scene.come() if come == "unix" else come_by_tcp(scene)
    scene.pool.drain()
    gate.set()
    heard = client.recv()
    if heard == b"bye":
        client.expect_farewell_alone()
    else:
        assert heard == FAREWELL
        assert client.recv() == b"bye"
    client.expect_end()


def test_who_waits_for_a_thread_is_told_too(stage: Stage) -> None:
    scene = stage(max_threads=1)
    first, second = scene.come(), scene.come()
    scene.pool.drain()
    scene.pool.remind()
    for client in (first, second):
        client.expect_farewell_alone()


def test_hanging_up_ends_all_conversations(stage: Stage) -> None:
    scene = stage(max_threads=2)
    clients = [scene.come() for _ in range(3)]
    clients[0].echo(b"hello")
    assert scene.pool.hang_up() == 3
    for client in clients:
        assert client.recv_to_end() == FAREWELL
    assert scene.pool.join(PATIENCE) == 0
    assert {scene.gone() for _ in clients} == {"deadline"}


def test_who_comes_after_that_is_hung_up_on_as_well(stage: Stage) -> None:
    scene = stage()
    scene.pool.hang_up()
    client = scene.come()
    assert client.recv_to_end() == FAREWELL
    assert scene.gone() == "deadline"


def test_who_does_not_return_is_counted_and_waited_for_once(stage: Stage) -> None:
    gate = threading.Event()

    def stuck(_request: Any, _address: Any) -> None:
        assert gate.wait(PATIENCE)

    scene = stage(stuck)
    for _ in range(5):
        scene.come()
    scene.pool.hang_up()
    assert scene.pool.join(0.1) == 5
    gate.set()
    assert scene.pool.join(PATIENCE) == 0


def test_where_no_thread_can_be_started_the_client_is_let_go(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = stage()
    with monkeypatch.context() as patch:

        def start(_self: object) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", start)
        assert scene.come().recv_to_end() == b""
        assert scene.gone() == "can't start new thread"
    scene.come().echo(b"hello")


def test_a_running_thread_takes_over_where_no_other_can_be_started(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = stage()
    first = scene.come()
    first.echo(b"hello")
    with monkeypatch.context() as patch:

        def start(_self: object) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", start)
        second = scene.come()
    second.send(b"hello")
    first.close()
    assert second.recv_exactly(5) == b"hello"


def test_a_request_of_another_class_is_left_as_it_is(stage: Stage) -> None:
    class Special(socket.socket):
        pass

    seen: Queue[type] = Queue()

    def look(request: Any, _address: Any) -> None:
        seen.put(type(request))

    scene = stage(look)
    ours, theirs = socket.socketpair()
    with theirs:
        special = Special(fileno=ours.detach())
        scene.pool.take(Client(special, "host", 1, AWAITING_FIRST_BYTE, 0.0))
        assert seen.get(timeout=PATIENCE) is Special
        assert scene.gone() == "handler ended"
    scene.come()
    assert seen.get(timeout=PATIENCE) is HandlerSocket


# Clients move on.


class Counting(socketserver.BaseRequestHandler):
    """Numbers what its client says, from its first word on."""

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
    """Does not come to a read for a while."""

    gate = threading.Event()

    def handle(self) -> None:
        self.gate.wait()
        super().handle()


@pytest.fixture
def _nudged() -> Iterator[None]:
    """As `SignalInbox` has it: what interrupts a read does nothing else."""
    before = signal.signal(NUDGE, lambda _signum, _frame: None)
    yield
    signal.signal(NUDGE, before)


def runs(factory: type[Any], monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Any], None]:
    """What runs a handler in a service."""
    module: Any = ModuleType("a_plugin")
    module.Mine = factory
    monkeypatch.setitem(sys.modules, "a_plugin", module)
    found = registry.find("a_plugin:Mine", FAREWELL)
    assert found
    assert found.movable
    made = found.factory

    def run(request: Any, address: Any) -> None:
        made(request, address, None)  # type: ignore[arg-type]

    return run


def come_by_tcp(scene: Scene) -> Other:
    with socket.create_server(("127.0.0.1", 0)) as server:
        other = Other.connect(f"127.0.0.1:{server.getsockname()[1]}")
        ours, _ = server.accept()
    scene.others.append(other)
    scene.pool.take(Client(ours, "host", len(scene.others), AWAITING_FIRST_BYTE, 0.0))
    return other


def ask(other: Other, number: int) -> None:
    other.send(b"how many?")
    assert other.recv() == b"%d" % number


def say_goodbye(scene: Scene, other: Other) -> None:
    scene.pool.drain()
    poll = select.poll()
    poll.register(other.sock, select.POLLIN)
    # A TCP client acknowledges what it has read after a moment, and is not told before.
    while not poll.poll(50):
        scene.pool.remind()
    other.expect_farewell_alone()


COME = pytest.mark.parametrize("come", [Scene.come, come_by_tcp], ids=["unix", "tcp"])


@COME
@pytest.mark.usefixtures("_nudged")
def test_who_waits_in_a_read_goes_on_in_another_process(
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
    assert here.left.empty()
    clients[0].send(b"meanwhile")
    for each in moved:
        there.pool.take(each)
    assert clients[0].recv() == b"4"
    for client in clients[1:]:
        ask(client, 4)
    for client in clients:
        ask(client, 5)
        client.close()
    assert {there.gone() for _ in clients} == {"handler ended"}
    assert [client.echoed for client in moved] == [5] * 5


@COME
@pytest.mark.usefixtures("_nudged")
def test_who_does_not_come_to_a_read_stays(
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
    say_goodbye(scene, client)


@COME
def test_who_cannot_move_stays(stage: Stage, come: Callable[[Scene], Other]) -> None:
    scene = stage()
    client = come(scene)
    client.echo(b"hello")
    assert scene.pool.freeze(PATIENCE) == []
    client.echo(b"hello, you")
    say_goodbye(scene, client)


@COME
@pytest.mark.parametrize("movable", [True, False])
@pytest.mark.usefixtures("_nudged")
def test_who_waits_for_a_thread_has_nothing_to_save(
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
    there.pool.take(moved[0])
    assert waiting.recv() == b"hello"
