"""The pool of threads for blocking handlers."""

from __future__ import annotations

import logging
import select
import signal
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from queue import Queue
from types import ModuleType
from typing import Any

import pytest

from graced.handlers import finder
from graced.handlers.handler_socket import HandlerSocket
from graced.handlers.pool import HandlerPool
from graced.loop.client import Client
from graced.loop.phase import ANSWERED, AWAITING_FIRST_BYTE, NOT_TOLD
from graced.signals import NUDGE
from support import FAREWELL, PATIENCE
from support import Client as Other


class Scene:
    """A pool, its clients, and the reasons for which clients were closed."""

    def __init__(
        self, run: Callable[[Any, Any], None], *, max_threads: int, gap: float, movable: bool
    ) -> None:
        self.closed: Queue[tuple[Client, str]] = Queue()
        self.others: list[Other] = []
        self.pool = HandlerPool(
            run,
            greet=False,
            max_threads=max_threads,
            movable=movable,
            farewell=FAREWELL,
            gap=gap,
            stall_timeout=0.0,
            on_close=lambda client, reason: self.closed.put((client, reason)),
        )

    def connect(self, *, told: int = NOT_TOLD) -> Other:
        """A new client, for which the pool has started a handler."""
        ours, theirs = socket.socketpair()
        client = Client(ours, "host", len(self.others), AWAITING_FIRST_BYTE, 0.0)
        client.told = told
        self.others.append(Other(theirs))
        self.pool.start(client)
        return self.others[-1]

    def next_reason(self) -> str:
        """The reason for which the next client is closed."""
        return self.closed.get(timeout=PATIENCE)[1]


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
        scene.pool.close_all()
        assert scene.pool.join(PATIENCE) == 0


def test_each_client_has_handler(stage: Stage) -> None:
    scene = stage()
    one, two = scene.connect(), scene.connect()
    for client in (one, two, one):
        client.echo(b"hello")
    one.close()
    assert scene.next_reason() == "handler ended"
    two.echo(b"hello")


def test_clients_beyond_limit_are_served_in_turn(stage: Stage) -> None:
    scene = stage(max_threads=1)
    clients = [scene.connect() for _ in range(3)]
    for client in clients:
        client.send(b"hello")
    for client in clients:
        assert client.recv_exactly(5) == b"hello"
        client.close()
        assert scene.next_reason() == "handler ended"


def test_exception_is_logged_with_client(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    def fail(request: Any, _address: Any) -> None:
        raise ValueError("as expected")

    scene = stage(fail)
    assert scene.connect().recv_to_end() == b""
    assert scene.next_reason() == "handler failed"
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "host:0" in record.getMessage()
    assert "as expected" in record.getMessage()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_exception_ends_only_its_handler(stage: Stage, error: BaseException) -> None:
    def fail(request: Any, _address: Any) -> None:
        raise error

    scene = stage(fail, max_threads=1)
    for _ in range(3):
        assert scene.connect().recv_to_end() == b""
        assert scene.next_reason() == "handler failed"


def test_exception_without_text(stage: Stage) -> None:
    class Nasty(Exception):
        def __str__(self) -> str:
            raise ValueError

        __repr__ = __str__

    def fail(request: Any, _address: Any) -> None:
        raise Nasty

    scene = stage(fail)
    assert scene.connect().recv_to_end() == b""
    assert scene.next_reason() == "handler failed"


@pytest.mark.parametrize("error", [ConnectionResetError(), BrokenPipeError()])
def test_reset_by_client_is_no_failure(
    stage: Stage, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(request: Any, _address: Any) -> None:
        raise error

    scene = stage(fail)
    scene.connect()
    assert scene.next_reason() == "reset by the client"
    assert not caplog.records


def test_handler_may_close_its_request(stage: Stage) -> None:
    scene = stage(lambda request, _address: request.close())
    assert scene.connect().recv_to_end() == b""
    assert scene.next_reason() == "handler ended"


def test_each_client_gets_farewell_once(stage: Stage) -> None:
    scene = stage()
    one, two = scene.connect(), scene.connect()
    one.echo(b"hello")
    scene.pool.drain()
    for _ in range(3):
        scene.pool.say_goodbyes()
    for client in (one, two):
        client.expect_farewell_alone()
        client.echo(b"hello")
        client.finish()
        assert client.recv_to_end() == b""
        client.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_client_with_farewell_gets_no_second_farewell(stage: Stage, when: str) -> None:
    """Whether the drain begins before the handler starts, or after."""
    scene = stage()
    if when == "before":
        scene.pool.drain()
    client = scene.connect(told=ANSWERED)
    scene.pool.drain()
    scene.pool.say_goodbyes()
    scene.pool.say_goodbyes()
    client.echo(b"hello")
    client.finish()
    assert client.recv_to_end() == b""


def test_new_client_in_drain_gets_farewell(stage: Stage) -> None:
    scene = stage()
    scene.pool.drain()
    client = scene.connect()
    scene.pool.say_goodbyes()
    client.expect_farewell_alone()


def test_frequent_reminders_do_not_insist(stage: Stage) -> None:
    """Each I/O thread sends pending farewells."""
    gate = threading.Event()

    def speak(request: Any, _address: Any) -> None:
        request.sendall(b"hello")
        assert gate.wait(PATIENCE)
        request.close()

    scene = stage(speak, gap=3600.0)
    client = scene.connect()
    assert client.recv() == b"hello"
    scene.pool.drain()
    for _ in range(3):
        scene.pool.say_goodbyes()
    gate.set()
    client.expect_end()


@pytest.mark.parametrize("come", ["unix", "tcp"])
def test_client_of_returning_handler_gets_farewell(stage: Stage, come: str) -> None:
    gate = threading.Event()

    def last_word(request: Any, _address: Any) -> None:
        assert gate.wait(PATIENCE)
        request.sendall(b"bye")

    scene = stage(last_word, gap=0.1)
    client = scene.connect() if come == "unix" else connect_by_tcp(scene)
    scene.pool.drain()
    gate.set()
    heard = client.recv()
    if heard == b"bye":
        client.expect_farewell_alone()
    else:
        assert heard == FAREWELL
        assert client.recv() == b"bye"
    client.expect_end()


def test_client_that_waits_for_thread_gets_farewell(stage: Stage) -> None:
    scene = stage(max_threads=1)
    first, second = scene.connect(), scene.connect()
    scene.pool.drain()
    scene.pool.say_goodbyes()
    for client in (first, second):
        client.expect_farewell_alone()


def test_close_all_closes_all_clients(stage: Stage) -> None:
    scene = stage(max_threads=2)
    clients = [scene.connect() for _ in range(3)]
    clients[0].echo(b"hello")
    assert scene.pool.close_all() == 3
    for client in clients:
        assert client.recv_to_end() == FAREWELL
    assert scene.pool.join(PATIENCE) == 0
    assert {scene.next_reason() for _ in clients} == {"deadline"}


def test_client_after_close_all_is_closed(stage: Stage) -> None:
    scene = stage()
    scene.pool.close_all()
    client = scene.connect()
    assert client.recv_to_end() == FAREWELL
    assert scene.next_reason() == "deadline"


def test_join_counts_stuck_handlers(stage: Stage) -> None:
    gate = threading.Event()

    def stuck(_request: Any, _address: Any) -> None:
        assert gate.wait(PATIENCE)

    scene = stage(stuck)
    for _ in range(5):
        scene.connect()
    scene.pool.close_all()
    assert scene.pool.join(0.1) == 5
    gate.set()
    assert scene.pool.join(PATIENCE) == 0


@pytest.mark.parametrize("others", [False, True])
def test_client_is_given_back_where_no_thread_starts(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, others: bool
) -> None:
    """Whether or not a handler runs, after whose end its thread would be free."""
    scene = stage()
    first = scene.connect()
    first.echo(b"hello")
    if not others:
        first.close()
        assert scene.next_reason() == "handler ended"
    ours, theirs = socket.socketpair()
    client = Client(ours, "host", 1, AWAITING_FIRST_BYTE, 0.0)
    other = Other(theirs)
    scene.others.append(other)
    with monkeypatch.context() as patch:

        def start(_self: object) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", start)
        assert not scene.pool.start(client)
    if others:
        first.close()
        assert scene.next_reason() == "handler ended"
    assert scene.pool.join(PATIENCE) == 0
    assert scene.pool.start(client)
    other.echo(b"hello")


def test_request_of_another_class_is_unchanged(stage: Stage) -> None:
    class Special(socket.socket):
        pass

    seen: Queue[type] = Queue()

    def look(request: Any, _address: Any) -> None:
        seen.put(type(request))

    scene = stage(look)
    ours, theirs = socket.socketpair()
    with theirs:
        special = Special(fileno=ours.detach())
        scene.pool.start(Client(special, "host", 1, AWAITING_FIRST_BYTE, 0.0))
        assert seen.get(timeout=PATIENCE) is Special
        assert scene.next_reason() == "handler ended"
    scene.connect()
    assert seen.get(timeout=PATIENCE) is HandlerSocket


# The handover.


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


def connect_by_tcp(scene: Scene) -> Other:
    with socket.create_server(("127.0.0.1", 0)) as server:
        other = Other.connect(f"127.0.0.1:{server.getsockname()[1]}")
        ours, _ = server.accept()
    scene.others.append(other)
    scene.pool.start(Client(ours, "host", len(scene.others), AWAITING_FIRST_BYTE, 0.0))
    return other


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
def test_handler_with_socket_as_context_manager_goes_on_in_next_process(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, come: Callable[[Scene], Other]
) -> None:
    run = runs(Context, monkeypatch)
    here, there = stage(run, movable=True), stage(run, movable=True)
    client = come(here)
    ask(client, 1)
    (moved,) = here.pool.freeze(PATIENCE)
    assert moved.saved == b"1"
    there.pool.start(moved)
    ask(client, 2)
    client.close()
    assert there.next_reason() == "handler ended"


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
