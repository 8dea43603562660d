"""The mirror of clients, with a service manager that has a single place."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from graced.handover.fd_bundle import FdBundle, unpack
from graced.handover.mirror import MAX_MESSAGES, Mirror
from graced.log import events
from graced.loop.client import Client
from graced.loop.phase import ACTIVE

MANY = 1000


class Manager:
    """Stores the last descriptor that the mirror has sent."""

    def __init__(self) -> None:
        self.held = -1
        self.replaced = -1
        """How often a descriptor was replaced by another."""
        self.reads = True
        self._unread: socket.socket | None = None

    def take(self, sock: socket.socket) -> None:
        if not self.reads:
            self._unread = sock
            return
        if self.held >= 0:
            os.close(self.held)
        self.held = os.dup(sock.fileno())
        self.replaced += 1

    def read_on(self) -> None:
        """Read the last message that waits in the queue of the service."""
        self.reads = True
        assert self._unread
        self.take(self._unread)

    def mirrored(self) -> set[int]:
        """The inodes of the sockets in the bundle."""
        found = set()
        with socket.socket(fileno=os.dup(self.held)) as receiver:
            for descriptors in unpack(receiver):
                for fd in descriptors:
                    found.add(os.fstat(fd).st_ino)
                    os.close(fd)
        return found


class Crowd:
    """Clients that come and go."""

    def __init__(self, stack: ExitStack, mirror: Mirror) -> None:
        self._stack = stack
        self.mirror = mirror
        self.present: list[Client] = []

    def come(self, number: int) -> None:
        for _ in range(number):
            ours, theirs = socket.socketpair()
            self._stack.enter_context(ours)
            self._stack.enter_context(theirs)
            self.present.append(Client(ours, "192.0.2.1", len(self.present), ACTIVE, 1.0))
            self.mirror.add(self.present[-1])

    def go(self, number: int) -> None:
        for _ in range(number):
            client = self.present.pop(0)
            self.mirror.discard(client)
            client.sock.close()

    def inodes(self) -> set[int]:
        return {os.fstat(client.sock.fileno()).st_ino for client in self.present}


@pytest.fixture
def manager() -> Iterator[Manager]:
    manager = Manager()
    yield manager
    os.close(manager.held)


@pytest.fixture
def crowd(stack: ExitStack, manager: Manager) -> Iterator[Crowd]:
    mirror = Mirror(manager.take)
    mirror.start()
    yield Crowd(stack, mirror)
    mirror.close()


@pytest.mark.parametrize("number", [0, 1, MAX_MESSAGES, MAX_MESSAGES + 1, MANY])
def test_present_clients_are_mirrored(crowd: Crowd, manager: Manager, number: int) -> None:
    crowd.come(number)
    assert manager.mirrored() == crowd.inodes()


def test_departed_clients_do_not_pile_up(crowd: Crowd, manager: Manager) -> None:
    crowd.come(10)
    for _ in range(MANY):
        crowd.come(1)
        crowd.go(1)
    mirrored = manager.mirrored()
    assert crowd.inodes() <= mirrored
    assert len(mirrored) <= 10 + MAX_MESSAGES
    assert 0 < manager.replaced <= MANY // (MAX_MESSAGES // 2)


def test_many_clients_take_few_messages(crowd: Crowd, manager: Manager) -> None:
    crowd.come(MANY)
    before = manager.replaced
    assert before <= 2 * MANY // MAX_MESSAGES
    # The new bundle has room for so many more.
    crowd.come(MAX_MESSAGES // 2)
    assert manager.replaced <= before + 1
    assert crowd.inodes() <= manager.mirrored()


def test_no_client_is_mirrored_after_close(crowd: Crowd, manager: Manager) -> None:
    """The store is not changed: the service manager has been told before."""
    crowd.come(3)
    crowd.mirror.close()
    crowd.come(MAX_MESSAGES // 2)
    assert not manager.replaced
    assert len(manager.mirrored()) == 3


def test_store_is_not_changed_before_the_start(stack: ExitStack, manager: Manager) -> None:
    """A start that fails has taken nothing out of the store."""
    crowd = Crowd(stack, Mirror(manager.take))
    crowd.come(3)
    assert manager.replaced == -1
    crowd.mirror.start()
    assert manager.replaced == 0
    assert manager.mirrored() == crowd.inodes()
    crowd.mirror.close()


def test_manager_that_reads_late_gets_all_clients(crowd: Crowd, manager: Manager) -> None:
    """Without another client: the message waits in a queue."""
    manager.reads = False
    crowd.come(MANY)
    assert manager.mirrored() != crowd.inodes()
    manager.read_on()
    assert manager.mirrored() == crowd.inodes()


def test_lack_of_room_is_one_warning(
    crowd: Crowd,
    manager: Manager,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(FdBundle, "put", lambda _bundle, _descriptors: False)
    crowd.come(10)
    (record,) = caplog.records
    assert record.msg is events.CANNOT_MIRROR
    monkeypatch.undo()
    crowd.come(1)
    assert manager.mirrored() == crowd.inodes()


def test_new_bundle_is_stored_when_it_has_all_clients(
    crowd: Crowd, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed in between loses no client."""
    crowd.come(MAX_MESSAGES)
    stored: list[set[int]] = []
    take = manager.take

    def killed_here(sock: socket.socket) -> None:
        take(sock)
        stored.append(manager.mirrored())

    monkeypatch.setattr(crowd.mirror, "_replace", killed_here)
    crowd.come(1)
    assert stored == [crowd.inodes()]
