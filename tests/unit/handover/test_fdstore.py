"""The file descriptor store, with a service manager that is no mock: it keeps what it is sent."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from graced.handover import fdstore
from graced.handover.fd_bundle import MOST, FdBundle
from graced.handover.fdstore import CLIENTS, LISTENERS, FdStore
from graced.handover.inherited import Inherited
from graced.handover.snapshot import cookie
from graced.loop.client import Client
from graced.loop.phase import GONE
from graced.systemd.notify import Notifier
from support import PATIENCE

FROZEN = 12.5
Crowd = Callable[..., list[Client]]


class Manager:
    """The service manager's end of NOTIFY_SOCKET, as far as its store goes; a context manager.

    As systemd does, it closes what does not fit and says nothing.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.name = str(path)
        self.limit = limit
        self.said: list[str] = []
        self._kept: list[tuple[str, int]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.name)
        self._settled = threading.Semaphore(0)
        self._stopped, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._read, name="test manager")

    def __enter__(self) -> Manager:
        self._thread.start()
        return self

    def __exit__(self, *_error: Any) -> None:
        os.close(self._stop)
        self._thread.join()
        os.close(self._stopped)
        self._socket.close()
        self._keep(lambda _name: False)

    def _read(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._stopped, select.POLLIN)
        while self._socket.fileno() in (ready := [fd for fd, _ in poll.poll()]):
            self._take()
        assert ready

    def _take(self) -> None:
        data, fds, flags, _ = socket.recv_fds(self._socket, 65536, 253, socket.MSG_CMSG_CLOEXEC)
        assert not flags & socket.MSG_CTRUNC
        self.said.append(data.decode())
        words = dict(line.split("=", 1) for line in self.said[-1].split("\n"))
        if words.get("FDSTORE") == "1":
            assert words["FDPOLL"] == "0", "who hangs up would be taken out"
            while fds and len(self._kept) < self.limit:
                self._kept.append((words["FDNAME"], fds.pop(0)))
        elif words.get("FDSTOREREMOVE") == "1":
            self._keep(lambda name: name != words["FDNAME"])
        elif words.get("X_SETTLED") == "1":
            self._settled.release()
        for fd in fds:
            os.close(fd)

    def _keep(self, wanted: Callable[[str], bool]) -> None:
        for name, fd in self._kept:
            if not wanted(name):
                os.close(fd)
        self._kept = [(name, fd) for name, fd in self._kept if wanted(name)]

    def _settle(self) -> None:
        """Wait until all that was sent is done."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"X_SETTLED=1", self.name)
        assert self._settled.acquire(timeout=PATIENCE)

    def forget(self, name: str) -> None:
        """As if it had never been kept."""
        self._settle()
        self._keep(lambda kept: kept != name)

    def names(self) -> set[str]:
        """Of all that is kept now."""
        self._settle()
        return {name for name, _ in self._kept}

    def pass_on(self) -> list[tuple[int, str]]:
        """As a process finds them that is started now."""
        self._settle()
        return [(os.dup(fd), name) for name, fd in self._kept]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start(
    stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], tuple[Manager, FdStore]]:
    """A manager that keeps so many descriptors, and the store of a service of its."""

    def start(limit: int) -> tuple[Manager, FdStore]:
        manager = stack.enter_context(Manager(tmp_path / "notify", limit))
        monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
        notifier = Notifier()
        stack.callback(notifier.close)
        store = FdStore(notifier)
        stack.callback(store.close)
        return manager, store

    return start


Start = Callable[[int], tuple[Manager, FdStore]]


@pytest.fixture
def crowd(stack: ExitStack) -> Crowd:
    """Clients whose other ends stay open to the end of the test."""

    def crowd(number: int, unsent: bytes = b"") -> list[Client]:
        clients = []
        for port in range(number):
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            stack.enter_context(theirs)
            client = Client(ours, "192.0.2.1", port, GONE, 1.0)
            client.unsent = unsent
            clients.append(client)
        return clients

    return crowd


def inherited(manager: Manager, stack: ExitStack) -> Inherited:
    legacy = Inherited(manager.pass_on())
    for sock in (*legacy.listeners, *(client.sock for client in legacy.clients)):
        stack.enter_context(sock)
    return legacy


def listeners(clients: list[Client]) -> list[int]:
    return [client.port for client in clients]


def test_where_nobody_is_here_nothing_is_left(start: Start, crowd: Crowd, stack: ExitStack) -> None:
    manager, store = start(10)
    store.reserve()
    assert store.leave([], FROZEN) == []
    assert not manager.names()


@pytest.mark.parametrize("number", [1, MOST, MOST + 1, 3 * MOST])
def test_what_is_left_is_what_the_next_process_finds(
    start: Start, crowd: Crowd, stack: ExitStack, number: int
) -> None:
    manager, store = start(10)
    store.reserve()
    clients = crowd(number, unsent=b"something")
    assert store.leave(clients, FROZEN) == []
    legacy = inherited(manager, stack)
    assert legacy.frozen == FROZEN
    assert listeners(legacy.clients) == listeners(clients)
    assert [cookie(c.sock) for c in legacy.clients] == [cookie(c.sock) for c in clients]
    for client in legacy.clients:
        assert client.counted
        assert client.unsent == b"something"
    assert legacy.names == manager.names() == {CLIENTS}


def test_who_crashes_leaves_an_empty_place(start: Start, stack: ExitStack) -> None:
    manager, store = start(10)
    store.reserve()
    store.close()
    legacy = inherited(manager, stack)
    assert legacy.names == {CLIENTS}
    assert not legacy.clients
    assert not legacy.frozen


@pytest.mark.parametrize("limit", range(3))
def test_all_have_one_place_or_none(
    start: Start, crowd: Crowd, stack: ExitStack, limit: int
) -> None:
    manager, store = start(limit)
    store.reserve()
    assert manager.names() == ({CLIENTS} if limit else set())
    clients = crowd(3)
    rest = store.leave(clients, FROZEN)
    assert rest == ([] if limit else clients)
    legacy = inherited(manager, stack)
    assert listeners(legacy.clients) == listeners(clients[len(rest) :])


def test_a_place_that_is_lost_late_is_noticed_too(
    start: Start, crowd: Crowd, stack: ExitStack
) -> None:
    """systemd closes what does not fit in a process of its own (since 254)."""
    manager, store = start(1)
    store.reserve()
    manager.forget(CLIENTS)
    clients = crowd(3)
    assert store.leave(clients, FROZEN) == clients


def test_what_is_in_the_store_already_takes_its_room(
    start: Start, crowd: Crowd, stack: ExitStack
) -> None:
    manager, store = start(2)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as two:
        store.keep_listeners([one, two])
        store.reserve()
        assert manager.names() == {LISTENERS}
        clients = crowd(2)
        assert store.leave(clients, FROZEN) == clients
        assert len(inherited(manager, stack).listeners) == 2


@pytest.mark.parametrize("room", range(6))
def test_who_does_not_fit_into_the_parcel_is_returned(
    start: Start, crowd: Crowd, stack: ExitStack, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """`room`: messages that there is room for; the first is the state."""
    monkeypatch.setattr(fdstore, "MOST", 3)
    put = FdBundle.put
    left = [room]

    def limited(bundle: FdBundle, descriptors: Sequence[int]) -> bool:
        left[0] -= 1
        return left[0] >= 0 and put(bundle, descriptors)

    monkeypatch.setattr(FdBundle, "put", limited)
    manager, store = start(10)
    store.reserve()
    clients = crowd(8)
    kept = min(8, 3 * max(0, room - 1))
    assert store.leave(clients, FROZEN) == clients[kept:], "in the order of coming"
    assert manager.names() == ({CLIENTS} if kept else set())
    legacy = inherited(manager, stack)
    assert listeners(legacy.clients) == list(range(kept))
    assert all(client.counted for client in legacy.clients)


def test_the_kernel_has_the_last_word_on_what_fits(
    start: Start, crowd: Crowd, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a message for each client its buffer is full after some hundreds."""
    monkeypatch.setattr(fdstore, "MOST", 1)
    manager, store = start(10)
    store.reserve()
    clients = crowd(1000)
    rest = store.leave(clients, FROZEN)
    kept = len(clients) - len(rest)
    assert 0 < kept < 1000
    assert rest == clients[kept:]
    assert listeners(inherited(manager, stack).clients) == list(range(kept))


@pytest.mark.parametrize("what", ["unsent", "saved"])
def test_there_is_a_limit_to_the_state(
    start: Start, crowd: Crowd, stack: ExitStack, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(fdstore, "MOST", 3)
    monkeypatch.setattr(fdstore, "_LARGEST_STATE", 600)
    manager, store = start(10)
    store.reserve()
    clients = crowd(12)
    for client in clients:
        setattr(client, what, b"x" * 100)
    assert store.leave(clients, FROZEN) == clients[6:]
    legacy = inherited(manager, stack)
    assert listeners(legacy.clients) == list(range(6))
    assert {getattr(client, what) for client in legacy.clients} == {b"x" * 100}


def test_without_a_service_manager_nobody_is_left(
    crowd: Crowd, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    store = FdStore(Notifier())
    stack.callback(store.close)
    store.reserve()
    clients = crowd(2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        store.keep_listeners([listener])
    assert store.leave(clients, FROZEN) == clients


def test_a_service_manager_that_goes_is_one_warning(
    crowd: Crowd,
    stack: ExitStack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Manager(tmp_path / "notify", 1000) as gone:
        monkeypatch.setenv("NOTIFY_SOCKET", gone.name)
        store = FdStore(Notifier())
        stack.callback(store.close)
    store.reserve()
    clients = crowd(2)
    assert store.leave(clients, FROZEN) == clients
    (record,) = caplog.records
    assert record.getMessage().startswith("cannot talk to the service manager: ")


def test_listeners_are_kept_until_they_are_released(start: Start, stack: ExitStack) -> None:
    manager, store = start(1000)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as two:
        store.keep_listeners([one, two])
        names = {sock.getsockname() for sock in inherited(manager, stack).listeners}
        assert names == {one.getsockname(), two.getsockname()}
        store.release(LISTENERS)
        assert not manager.names()
        store.keep_listeners([two])
        assert manager.names() == {LISTENERS}


def test_what_is_taken_over_is_let_go_of(start: Start, crowd: Crowd, stack: ExitStack) -> None:
    manager, store = start(1000)
    store.reserve()
    store.leave(crowd(2), FROZEN)
    store.forget(inherited(manager, stack).names)
    assert not manager.names()
