"""The hot loop, with real sockets and without the rest of the server."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from graced import io_thread, listener
from graced.address import Address
from graced.admission import Admission
from graced.io_thread import BUFFER_SIZE, SMALL_READ, IOThread
from graced.manners import Manners
from support import FAREWELL, PATIENCE, Client

Make = Callable[..., "Scene"]


class Scene:
    """A thread that serves one port."""

    def __init__(self, address: str, limit: int, manners: Manners, accept: Any) -> None:
        (self.port,) = listener.bind([Address.parse(address)], 100)
        if accept:
            wrapped = self.port.accept
            self.port.accept = lambda: accept(wrapped)  # type: ignore[method-assign]
        self.changes = threading.Semaphore(0)
        self.admission = Admission(limit, 0)
        self.thread = IOThread([self.port], self.admission, manners, changed=self.changes.release)

    def connect(self) -> Client:
        return Client.connect(self.port.name)

    def changed(self) -> None:
        """Wait for a change."""
        assert self.changes.acquire(timeout=PATIENCE)

    def do(self, action: Callable[[], Any]) -> Any:
        """Have the thread do something, and wait for the result."""
        results: list[Any] = []
        done = threading.Event()

        def run() -> None:
            results.append(action())
            done.set()

        self.thread.post(run)
        assert done.wait(PATIENCE)
        return results[0]

    def finish(self) -> None:
        self.thread.finish()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


@pytest.fixture
def make() -> Iterator[Make]:
    scenes: list[Scene] = []

    def make(
        address: str = "127.0.0.1:0",
        limit: int = 100,
        accept: Callable[[Callable[[], Any]], Any] | None = None,
        **manners: Any,
    ) -> Scene:
        scene = Scene(address, limit, Manners(**manners), accept)
        scenes.append(scene)
        scene.thread.start()
        return scene

    yield make
    for scene in scenes:
        scene.finish()
        scene.thread.close()
        scene.port.close()


def test_bytes_and_clients_are_counted(make: Make) -> None:
    scene = make()
    with scene.connect() as one, scene.connect() as two:
        one.echo(b"hello")
        two.echo(b"you")
        assert scene.do(lambda: scene.thread.echoed) == 8
        assert scene.admission.clients == 2
        scene.thread.drain()
        scene.changed()
        assert scene.thread.draining
        for client in (one, two):
            client.expect_farewell_alone()
        one.close()
        scene.finish()
        two.expect_end()
    assert (scene.thread.left, scene.thread.closed) == (1, 1)
    assert scene.admission.clients == 0


def test_what_is_posted_is_done_in_order(make: Make) -> None:
    scene = make()
    done: list[int] = []
    for number in range(1000):
        scene.thread.post(lambda number=number: done.append(number))  # type: ignore[misc]
    scene.do(lambda: None)
    assert done == list(range(1000))


def test_a_probe_is_answered(make: Make) -> None:
    scene = make()
    scene.thread.probe(7)
    scene.changed()
    assert scene.thread.answered == 7


def test_the_next_move_is_reported_once(make: Make) -> None:
    scene = make()
    with scene.connect() as client:
        client.echo(b"hello")
        scene.thread.report_next_move()
        for _ in range(10):
            client.echo(b"hello")
        scene.changed()
        assert not scene.changes.acquire(blocking=False)
        scene.thread.report_next_move()
    scene.changed()


def test_a_failure_is_kept_and_reported_and_the_clients_are_closed(make: Make) -> None:
    scene = make()
    with scene.connect() as client:
        client.echo(b"hello")

        def fail() -> None:
            raise LookupError("as expected")

        scene.thread.post(fail)
        scene.changed()
        client.expect_end()
    scene.thread.join(PATIENCE)
    assert isinstance(scene.thread.failure, LookupError)


def failing(*codes: int) -> Callable[[Callable[[], Any]], Any]:
    """An accept that fails so before it succeeds."""
    left = list(codes)

    def accept(wrapped: Callable[[], Any]) -> Any:
        if left:
            code = left.pop(0)
            raise OSError(code, os.strerror(code))
        return wrapped()

    return accept


@pytest.mark.parametrize("code", sorted({errno.ECONNABORTED, errno.EPROTO, errno.EHOSTUNREACH}))
def test_a_client_that_is_lost_on_the_way_is_no_matter(make: Make, code: int) -> None:
    with make(accept=failing(code, code)).connect() as client:
        client.echo(b"hello")


@pytest.mark.parametrize("code", sorted({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}))
def test_where_there_is_no_room_it_waits_and_tries_again(
    make: Make, code: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io_thread, "ACCEPT_PAUSE", 0.01)
    caplog.set_level(logging.INFO, "graced")
    scene = make(accept=failing(code, code, code))
    with scene.connect() as client:
        client.echo(b"hello")
    texts = [record.getMessage() for record in caplog.records if "accept" in record.getMessage()]
    assert texts == [
        f"cannot accept clients ({os.strerror(code)}), trying again every 0.01 s",
        "accepting clients again",
    ]


def test_what_cannot_happen_is_a_failure(make: Make) -> None:
    scene = make(accept=failing(errno.EBADF))
    with scene.connect():
        scene.changed()
    assert isinstance(scene.thread.failure, OSError)


def test_bytes_that_are_owed_are_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io_thread, "OWED_BUDGET", 1)
    scene = make()
    thread = scene.thread
    with scene.connect() as deaf:
        assert scene.do(lambda: len(thread._view)) == BUFFER_SIZE
        sent = deaf.send_until_full()
        while not scene.do(lambda: thread._owed):
            sent += deaf.send_until_full()
        assert scene.do(lambda: len(thread._view)) == SMALL_READ
        assert scene.do(lambda: thread._owed) <= BUFFER_SIZE
        with scene.connect() as client:
            client.echo(b"x" * 3 * SMALL_READ)
        deaf.recv_exactly(sent)
        assert scene.do(lambda: thread._owed) == 0
        assert scene.do(lambda: len(thread._view)) == BUFFER_SIZE
    with scene.connect() as client:
        client.echo(b"hello")


def test_what_is_owed_to_one_that_leaves_is_forgotten(make: Make) -> None:
    scene = make()
    with scene.connect() as deaf:
        deaf.send_until_full()
        while not scene.do(lambda: scene.thread._owed):
            deaf.send_until_full()
        scene.thread.report_next_move()
        deaf.reset()
    scene.changed()
    assert scene.do(lambda: scene.thread._owed) == 0


def test_refused_clients_linger_in_bounded_numbers(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io_thread, "MAX_LINGERING", 2)
    scene = make(limit=0)
    clients = [scene.connect() for _ in range(5)]
    heard = []
    for client in clients:
        heard.append(client.recv_to_end())
    assert heard == [FAREWELL, FAREWELL, b"", b"", b""]
    for client in clients:
        client.close()


def test_a_refused_client_that_does_not_close_is_closed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io_thread, "LINGER", 0.05)
    scene = make(limit=0)
    with scene.connect() as client:
        assert client.recv_to_end() == FAREWELL
        with pytest.raises(ConnectionError):
            client.send(b"still here" * 10_000_000)


@pytest.mark.parametrize("kind", ["127.0.0.1:0", "[::1]:0", "unix"])
def test_how_a_client_is_called(
    make: Make, kind: str, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "graced")
    scene = make(f"unix:{tmp_path}/socket" if kind == "unix" else kind)
    with scene.connect() as client:
        client.echo(b"hello")
        name = f"unix:{tmp_path}/socket#1" if kind == "unix" else client.name
    assert f"connection from {name}" in [record.getMessage() for record in caplog.records]


def test_it_ends_at_once_when_nobody_is_there(make: Make) -> None:
    scene = make()
    scene.finish()
    scene.changed()
    assert scene.thread.failure is None
