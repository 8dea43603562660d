"""The file descriptor store, with a service manager that really stores descriptors."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from graced.handover import fdstore
from graced.handover.fd_bundle import MAX_DESCRIPTORS, FdBundle
from graced.handover.fdstore import CLIENTS, LISTENERS, FdStore
from graced.handover.inherited import Inherited
from graced.handover.snapshot import cookie
from graced.log import events
from graced.loop.client import Client
from graced.loop.phase import GONE
from graced.systemd.notify import Notifier
from handover.manager import Manager

FROZEN = 12.5
COUNTS = (70, 700, 7, 3)
Crowd = Callable[..., list[Client]]


@pytest.fixture
def start(
    stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], tuple[Manager, FdStore]]:
    """A manager with room for so many descriptors, and the store of its service."""

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
    found = Inherited(manager.pass_on())
    stack.callback(found.close)
    for sock in (*found.listeners.sockets, *(client.sock for client in found.clients)):
        stack.enter_context(sock)
    return found


def ports(clients: list[Client]) -> list[int]:
    return [client.port for client in clients]


def test_counts_are_handed_over_without_clients(start: Start, stack: ExitStack) -> None:
    manager, store = start(10)
    store.reserve()
    assert store.hand_over([], FROZEN, COUNTS) == []
    found = inherited(manager, stack)
    assert found.counts == COUNTS
    assert not found.clients


@pytest.mark.parametrize("number", [1, MAX_DESCRIPTORS, MAX_DESCRIPTORS + 1, 3 * MAX_DESCRIPTORS])
def test_next_process_finds_the_clients(
    start: Start, crowd: Crowd, stack: ExitStack, number: int
) -> None:
    manager, store = start(10)
    store.reserve()
    clients = crowd(number, unsent=b"something")
    assert store.hand_over(clients, FROZEN, COUNTS) == []
    found = inherited(manager, stack)
    assert found.frozen == FROZEN
    assert ports(found.clients) == ports(clients)
    assert [cookie(c.sock) for c in found.clients] == [cookie(c.sock) for c in clients]
    for client in found.clients:
        assert client.counted
        assert client.unsent == b"something"
    assert found.names == manager.names() == {CLIENTS}


def test_crash_leaves_an_empty_bundle(start: Start, stack: ExitStack) -> None:
    manager, store = start(10)
    store.reserve()
    store.close()
    found = inherited(manager, stack)
    assert found.names == {CLIENTS}
    assert not found.clients
    assert not found.frozen


@pytest.mark.parametrize("limit", range(3))
def test_clients_take_one_place_or_none(
    start: Start, crowd: Crowd, stack: ExitStack, limit: int
) -> None:
    manager, store = start(limit)
    store.reserve()
    assert manager.names() == ({CLIENTS} if limit else set())
    clients = crowd(3)
    rest = store.hand_over(clients, FROZEN, COUNTS)
    assert rest == ([] if limit else clients)
    found = inherited(manager, stack)
    assert ports(found.clients) == ports(clients[len(rest) :])


def test_place_that_is_lost_late_is_noticed(start: Start, crowd: Crowd, stack: ExitStack) -> None:
    """systemd closes what does not fit in a process of its own (since 254)."""
    manager, store = start(1)
    store.reserve()
    manager.forget(CLIENTS)
    clients = crowd(3)
    assert store.hand_over(clients, FROZEN, COUNTS) == clients


def test_stored_listeners_take_their_room(start: Start, crowd: Crowd, stack: ExitStack) -> None:
    manager, store = start(2)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as two:
        store.store_listeners([one, two])
        store.reserve()
        assert manager.names() == {LISTENERS}
        clients = crowd(2)
        assert store.hand_over(clients, FROZEN, COUNTS) == clients
        assert len(inherited(manager, stack).listeners.sockets) == 2


@pytest.mark.parametrize("room", range(6))
def test_clients_that_do_not_fit_are_returned(
    start: Start, crowd: Crowd, stack: ExitStack, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """`room`: messages that fit; the first is the state."""
    monkeypatch.setattr(fdstore, "MAX_DESCRIPTORS", 3)
    put = FdBundle.put
    free = [room]

    def limited(bundle: FdBundle, descriptors: Sequence[int]) -> bool:
        free[0] -= 1
        return free[0] >= 0 and put(bundle, descriptors)

    monkeypatch.setattr(FdBundle, "put", limited)
    manager, store = start(10)
    store.reserve()
    clients = crowd(8)
    stored = min(8, 3 * max(0, room - 1))
    assert store.hand_over(clients, FROZEN, COUNTS) == clients[stored:], "in the order of coming"
    assert manager.names() == ({CLIENTS} if room else set())
    found = inherited(manager, stack)
    assert ports(found.clients) == list(range(stored))
    assert all(client.counted for client in found.clients)


def test_kernel_limits_the_messages_of_a_bundle(
    start: Start, crowd: Crowd, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a message for each client its buffer is full after some hundreds."""
    monkeypatch.setattr(fdstore, "MAX_DESCRIPTORS", 1)
    manager, store = start(10)
    store.reserve()
    clients = crowd(1000)
    rest = store.hand_over(clients, FROZEN, COUNTS)
    stored = len(clients) - len(rest)
    assert 0 < stored < 1000
    assert rest == clients[stored:]
    assert ports(inherited(manager, stack).clients) == list(range(stored))


@pytest.mark.parametrize("what", ["unsent", "saved"])
def test_state_has_a_limit(
    start: Start, crowd: Crowd, stack: ExitStack, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(fdstore, "MAX_DESCRIPTORS", 3)
    monkeypatch.setattr(fdstore, "_MAX_STATE", 600)
    manager, store = start(10)
    store.reserve()
    clients = crowd(12)
    for client in clients:
        setattr(client, what, b"x" * 100)
    assert store.hand_over(clients, FROZEN, COUNTS) == clients[6:]
    found = inherited(manager, stack)
    assert ports(found.clients) == list(range(6))
    assert {getattr(client, what) for client in found.clients} == {b"x" * 100}


def test_without_a_service_manager_all_clients_are_returned(
    crowd: Crowd, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    store = FdStore(Notifier())
    stack.callback(store.close)
    store.reserve()
    clients = crowd(2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        store.store_listeners([listener])
    assert store.hand_over(clients, FROZEN, COUNTS) == clients


def test_lost_service_manager_is_one_warning(
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
    assert store.hand_over(clients, FROZEN, COUNTS) == clients
    (record,) = caplog.records
    assert record.getMessage().startswith("cannot talk to the service manager: ")


def test_bundle_that_is_not_sent_gets_no_client(
    start: Start,
    crowd: Crowd,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Else the clients would end with this process, which alone has the bundle."""
    manager, store = start(10)

    def refused(*_arguments: Any) -> int:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(socket.socket, "sendmsg", refused)
    store.reserve()
    clients = crowd(3)
    store.settle()
    assert store.hand_over(clients, FROZEN, COUNTS) == clients
    assert [record.msg for record in caplog.records] == [
        events.NOTIFY_LOST,
        events.CANNOT_HAND_OVER,
    ]
    monkeypatch.undo()
    assert CLIENTS not in manager.names()


def test_listeners_are_stored_until_they_are_released(start: Start, stack: ExitStack) -> None:
    manager, store = start(1000)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as two:
        store.store_listeners([one, two])
        names = {sock.getsockname() for sock in inherited(manager, stack).listeners.sockets}
        assert names == {one.getsockname(), two.getsockname()}
        store.forget([LISTENERS])
        assert not manager.names()
        store.store_listeners([two])
        assert manager.names() == {LISTENERS}


def test_inherited_names_are_forgotten(start: Start, crowd: Crowd, stack: ExitStack) -> None:
    manager, store = start(1000)
    store.reserve()
    store.hand_over(crowd(2), FROZEN, COUNTS)
    store.forget(inherited(manager, stack).names)
    assert not manager.names()


def test_state_that_cannot_be_written_is_one_warning(
    start: Start,
    crowd: Crowd,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager, store = start(10)
    store.reserve()
    clients = crowd(3)

    def fail(*_arguments: object) -> int:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(os, "memfd_create", fail)
    assert store.hand_over(clients, FROZEN, COUNTS) == clients
    assert not manager.names()
    (record,) = caplog.records
    assert record.msg is events.CANNOT_HAND_OVER


def test_shortage_at_the_start_is_not_final(
    start: Start,
    crowd: Crowd,
    stack: ExitStack,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No descriptor was free when the place for clients was to be taken."""
    manager, store = start(10)
    with monkeypatch.context() as short:

        def fail() -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        short.setattr(socket, "socketpair", fail)
        store.reserve()
    assert not manager.names()
    for _ in range(2):
        store.reserve()
        assert manager.names() == {CLIENTS}
    clients = crowd(3)
    assert store.hand_over(clients, FROZEN, COUNTS) == []
    assert ports(inherited(manager, stack).clients) == ports(clients)
    assert not caplog.records
