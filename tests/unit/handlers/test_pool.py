"""The pool of threads for blocking handlers."""

from __future__ import annotations

import logging
import socket
import threading
from queue import Queue
from typing import Any

import pytest

from graced.handlers.handler_socket import HandlerSocket
from graced.loop.client import Client
from graced.loop.phase import ANSWERED, AWAITING_FIRST_BYTE
from handlers.scene import Stage, connect_by_tcp
from support import FAREWELL, PATIENCE
from support import Client as Other


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


@pytest.mark.parametrize("reset", [False, True])
def test_handler_gets_address_of_client(stage: Stage, reset: bool) -> None:
    addresses: Queue[Any] = Queue()
    scene = stage(lambda _request, address: addresses.put(address))
    other = connect_by_tcp(scene, reset=reset)
    # Of a connection that has been reset the kernel tells nothing: the words of the log remain.
    expected = ("host", 1) if reset else other.sock.getsockname()
    assert addresses.get(timeout=PATIENCE) == expected


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


def test_thread_that_is_just_being_started_is_not_joined(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline comes while an I/O thread starts a handler."""
    scene = stage()
    starting, gate = threading.Event(), threading.Event()
    start = threading.Thread.start

    def start_late(thread: threading.Thread) -> None:
        if thread.name.startswith("handler"):
            starting.set()
            assert gate.wait(PATIENCE)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_late)
    connecting = threading.Thread(target=scene.connect)
    connecting.start()
    assert starting.wait(PATIENCE)
    scene.pool.close_all()
    assert scene.pool.join(PATIENCE) == 0
    gate.set()
    connecting.join()
    assert scene.next_reason() == "deadline"


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
