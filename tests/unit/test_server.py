"""The server: I/O threads and handler threads behind one interface."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Event
from typing import Any

import pytest

from graced import server as server_module
from graced.app.assembly import default_io_threads
from graced.errors import StartError, StuckError
from graced.handlers.blocking import Blocking
from graced.loop.admission import Admission
from graced.loop.io_thread import IOThread
from graced.loop.policy import Policy
from graced.server import Server
from graced.sockets import binding
from graced.sockets.address import Address
from support import PATIENCE, Client

Make = Callable[..., Server]


def echo(request: Any, _address: Any) -> None:
    while data := request.recv(4096):
        request.sendall(data)


@pytest.fixture
def make() -> Iterator[Make]:
    belongings: list[Any] = []

    def make(
        *addresses: str,
        run: Callable[[Any, Any], None] | None = None,
        io_threads: int = 1,
        **policy: Any,
    ) -> Server:
        listeners = binding.bind(
            [Address.parse(text) for text in addresses or ["127.0.0.1:0"]], 100
        )
        server = Server(
            listeners,
            admission=Admission(100, 0),
            policy=Policy(**policy),
            blocking=Blocking(run) if run else None,
            io_threads=io_threads,
        )
        belongings.extend([server, *listeners])
        server.start()
        return server

    yield make
    for each in belongings:
        if isinstance(each, Server):
            each.stop()
            for thread in each.io_threads:
                thread.join(PATIENCE)
            if each.pool:
                each.pool.join(PATIENCE)
        each.close()


def connect(server: Server) -> Client:
    host, port = server.server_address[:2]
    return Client.connect(f"{host}:{port}")


def wait_for(server: Server, condition: Callable[[], object]) -> None:
    """Wait as the main thread does: asleep until something changes."""
    poll = select.poll()
    poll.register(server.changed_fd, select.POLLIN)
    until = time.monotonic() + PATIENCE
    while not condition():
        assert poll.poll(max(0.0, until - time.monotonic()) * 1000), "nothing changed"
        server.take_changes()


KINDS = pytest.mark.parametrize("run", [None, echo], ids=["stream", "blocking"])


@KINDS
@pytest.mark.parametrize("io_threads", [1, 3])
def test_clients_and_bytes_are_counted(make: Make, run: Any, io_threads: int) -> None:
    server = make(run=run, io_threads=io_threads)
    clients = [connect(server) for _ in range(20)]
    for client in clients:
        client.echo(b"hello")
    assert (server.clients, server.admitted) == (20, 20)
    server.drain(time.monotonic() + 3600)
    assert server.draining.is_set()
    for client in clients:
        client.expect_farewell_alone()
    for client in clients[1:]:
        client.finish()
    for client in clients[1:]:
        client.expect_end()
        client.close()
    assert not server.drained
    assert server.stop() == 0
    clients[0].expect_end()
    clients[0].close()
    assert server.drained
    assert (server.departed, server.closed) == (19, 1)
    assert server.echoed == 100


@KINDS
def test_last_client_to_depart_is_a_change(make: Make, run: Any) -> None:
    server = make(run=run)
    with connect(server) as client:
        client.echo(b"hello")
        server.drain(time.monotonic() + 3600)
        wait_for(server, lambda: server.io_threads[0].draining)
        client.expect_farewell_alone()
    wait_for(server, lambda: server.drained)


def test_activity_is_a_change_only_when_asked_for(make: Make) -> None:
    server = make()
    with connect(server) as client:
        for _ in range(10):
            client.echo(b"hello")
        poll = select.poll()
        poll.register(server.changed_fd, select.POLLIN)
        assert not poll.poll(0)
        server.report_next_activity()
        client.echo(b"hello")
        assert poll.poll(PATIENCE * 1000)
        server.take_changes()
        server.take_changes()
        client.echo(b"hello")
        assert not poll.poll(0)


@pytest.mark.parametrize("io_threads", [1, 3])
def test_server_is_alive_when_all_threads_are(make: Make, io_threads: int) -> None:
    server = make(io_threads=io_threads)
    gate = threading.Event()
    server.io_threads[-1].post(gate.wait)  # type: ignore[arg-type]
    server.liveness.probe()
    for thread in server.io_threads[:-1]:
        wait_for(server, lambda thread=thread: thread.answered)  # type: ignore[misc]
    assert server.liveness.late
    gate.set()
    wait_for(server, lambda: not server.liveness.late)


def test_failure_of_a_thread_is_a_change(make: Make) -> None:
    server = make(io_threads=2)

    def fail() -> None:
        raise LookupError("as expected")

    server.io_threads[1].post(fail)
    wait_for(server, lambda: server.failure)
    assert isinstance(server.failure, LookupError)


def test_no_client_is_served_unless_every_thread_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start that fails must not read what the next start is to answer."""
    started: list[threading.Thread] = []

    def start_one(thread: threading.Thread) -> None:
        if started:
            raise StartError("cannot start a thread: can't start new thread")
        started.append(thread)
        thread.start()

    monkeypatch.setattr(server_module, "start_thread", start_one)
    (listener,) = binding.bind([Address.parse("127.0.0.1:0")], 100)
    with ExitStack() as stack:
        stack.callback(listener.close)
        server = Server([listener], admission=Admission(100, 0), policy=Policy(), io_threads=2)
        stack.callback(server.close)
        client = stack.enter_context(connect(server))
        client.send(b"for the next start")
        with pytest.raises(StartError):
            server.start()
        started[0].join(PATIENCE)
        assert not started[0].is_alive()
        assert server.admitted == 0
        with listener.accept()[0] as accepted:
            assert accepted.recv(100) == b"for the next start"


def test_stuck_handlers_are_counted(make: Make) -> None:
    gate = threading.Event()

    def stuck(request: Any, _address: Any) -> None:
        request.sendall(request.recv(100))
        assert gate.wait(PATIENCE)

    server = make(run=stuck)
    clients = [connect(server) for _ in range(3)]
    for client in clients:
        client.echo(b"hello")
    try:
        server.drain(time.monotonic())
        assert server.stop() == 3
        for client in clients:
            assert client.recv_to_end() == b""
    finally:
        gate.set()
        for client in clients:
            client.close()
    assert server.closed == 3


def test_deadline_is_known_from_the_drain_on(make: Make) -> None:
    server = make(run=echo)
    assert server.deadline is None
    deadline = time.monotonic() + 3600
    server.drain(deadline)
    assert server.deadline == deadline


def test_default_is_one_io_thread_under_a_gil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys._is_gil_enabled", lambda: True, raising=False)
    assert default_io_threads() == 1
    monkeypatch.setattr("sys._is_gil_enabled", lambda: False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {1, 3, 5})
    assert default_io_threads() == 3


@KINDS
@pytest.mark.parametrize("io_threads", [1, 3])
def test_frozen_clients_are_served_by_the_next_server(
    make: Make, run: Callable[[Any, Any], None] | None, io_threads: int
) -> None:
    here, there = make(run=run, io_threads=io_threads), make(run=run, io_threads=io_threads)
    clients = [connect(here) for _ in range(10)]
    for client in clients:
        client.echo(b"hello")
    frozen = here.freeze()
    # The handlers of this run cannot go on elsewhere.
    assert len(frozen) == (0 if run else len(clients))
    assert here.clients == len(clients) - len(frozen)
    there.adopt(frozen)
    assert there.clients == len(frozen)
    for client in clients:
        client.echo(b"and on")
    for server in (here, there):
        server.drain(time.monotonic() + PATIENCE)
    for client in clients:
        client.expect_farewell_alone()
        client.close()
    wait_for(here, lambda: here.drained)
    wait_for(there, lambda: there.drained)
    assert here.departed + there.departed == len(clients)


@pytest.mark.parametrize("io_threads", [1, 3])
def test_batches_move_while_all_others_are_served(make: Make, io_threads: int) -> None:
    here, there = make(io_threads=io_threads), make()
    clients = [connect(here) for _ in range(10)]
    for client in clients:
        client.echo(b"hello")
    sizes = []
    while batch := here.freeze_batch(3):
        sizes.append(len(batch))
        moving = {str(client) for client in batch}
        for client in clients:
            if client.name not in moving:
                client.echo(b"meanwhile")
        there.adopt(batch)
        for client in clients:
            client.echo(b"and on")
    assert sum(sizes) == len(clients)
    assert max(sizes) <= 3 * io_threads
    assert (here.clients, there.clients) == (0, len(clients))
    # The listeners are not abandoned, as by a freeze of all.
    with connect(here) as late:
        late.echo(b"hello")
    for client in clients:
        client.close()


@contextmanager
def hanging(io_thread: IOThread) -> Iterator[None]:
    """The thread answers nothing meanwhile."""
    gate = threading.Event()

    def hang() -> None:
        gate.wait(PATIENCE)

    io_thread.post(hang)
    try:
        yield
    finally:
        gate.set()


def test_freeze_fails_when_a_thread_does_not_answer(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "FREEZE_TIMEOUT", 0.1)
    server = make()
    with hanging(server.io_threads[0]), pytest.raises(StuckError):
        server.freeze()


@pytest.mark.parametrize("most", [None, 5], ids=["all", "batch"])
def test_clients_stay_when_a_thread_does_not_answer(
    make: Make, monkeypatch: pytest.MonkeyPatch, most: int | None
) -> None:
    monkeypatch.setattr(server_module, "FREEZE_TIMEOUT", 0.1)
    server = make(io_threads=3)
    clients = [connect(server) for _ in range(10)]
    for client in clients:
        client.echo(b"hello")
    with hanging(server.io_threads[0]), pytest.raises(StuckError):
        server.freeze_batch(most) if most else server.freeze()
    for client in clients:
        client.echo(b"served again")
    assert (server.clients, server.admitted) == (10, 10)
    server.drain(time.monotonic() + 3600)
    for client in clients:
        client.expect_farewell_alone()
        client.close()
    wait_for(server, lambda: server.drained)


@KINDS
@pytest.mark.parametrize("io_threads", [1, 3])
def test_listener_is_left_and_its_clients_are_served_on(
    make: Make, run: Any, io_threads: int
) -> None:
    server = make(run=run, io_threads=io_threads)
    (more,) = binding.bind([Address.parse("127.0.0.1:0")], 10)
    server.listen([more])
    with Client.connect(more.name) as client:
        client.echo(b"before")
        assert server.unlisten(more)
        assert more.name not in server.addresses
        more.close()
        client.echo(b"after")
        with connect(server) as another:
            another.echo(b"hello")


def test_listener_that_an_io_thread_may_use_is_not_left(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "IO_REPLY_TIMEOUT", 0.01)
    server = make()
    asked, released = Event(), Event()

    def hang() -> None:
        asked.set()
        released.wait(PATIENCE)

    server.io_threads[0].post(hang)
    assert asked.wait(PATIENCE)
    (more,) = binding.bind([Address.parse("127.0.0.1:0")], 10)
    server.listen([more])
    assert not server.unlisten(more)
    assert more.name in server.addresses
    released.set()
    # The thread has done it meanwhile: the next try finds nothing to do.
    monkeypatch.setattr(server_module, "IO_REPLY_TIMEOUT", PATIENCE)
    assert server.unlisten(more)
    more.close()
