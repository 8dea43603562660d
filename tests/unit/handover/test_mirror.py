"""Clients kept from the accept on, with a service manager that has but one place."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from graced.handover.fd_bundle import unpack
from graced.handover.mirror import MESSAGES, Mirror
from graced.loop.client import Client
from graced.loop.phase import ACTIVE

MANY = 1000


class Manager:
    """Keeps the last descriptor that it was given."""

    def __init__(self) -> None:
        self.held = -1
        self.replaced = -1
        """How often it was given another one."""

    def take(self, descriptor: int) -> None:
        if self.held >= 0:
            os.close(self.held)
        self.held = os.dup(descriptor)
        self.replaced += 1

    def kept(self) -> set[int]:
        """The inodes of what it has."""
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
        self.here: list[Client] = []

    def come(self, number: int) -> None:
        for _ in range(number):
            ours, theirs = socket.socketpair()
            self._stack.enter_context(ours)
            self._stack.enter_context(theirs)
            self.here.append(Client(ours, "192.0.2.1", len(self.here), ACTIVE, 1.0))
            self.mirror.add(self.here[-1])

    def go(self, number: int) -> None:
        for _ in range(number):
            client = self.here.pop(0)
            self.mirror.discard(client)
            client.sock.close()

    def inodes(self) -> set[int]:
        return {os.fstat(client.sock.fileno()).st_ino for client in self.here}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def manager() -> Iterator[Manager]:
    manager = Manager()
    yield manager
    os.close(manager.held)


@pytest.fixture
def crowd(stack: ExitStack, manager: Manager) -> Iterator[Crowd]:
    mirror = Mirror(manager.take)
    yield Crowd(stack, mirror)
    mirror.close()


@pytest.mark.parametrize("number", [0, 1, MESSAGES, MESSAGES + 1, MANY])
def test_who_is_here_is_kept(crowd: Crowd, manager: Manager, number: int) -> None:
    crowd.come(number)
    assert manager.kept() == crowd.inodes()


def test_who_has_left_does_not_pile_up(crowd: Crowd, manager: Manager) -> None:
    crowd.come(10)
    for _ in range(MANY):
        crowd.come(1)
        crowd.go(1)
    kept = manager.kept()
    assert crowd.inodes() <= kept
    assert len(kept) <= 10 + MESSAGES
    assert 0 < manager.replaced <= MANY // (MESSAGES // 2)


def test_many_take_but_a_few_messages(crowd: Crowd, manager: Manager) -> None:
    crowd.come(MANY)
    before = manager.replaced
    assert before <= 2 * MANY // MESSAGES
    # There is room for as many as fit beside those.
    crowd.come(MESSAGES // 2)
    assert manager.replaced <= before + 1
    assert crowd.inodes() <= manager.kept()


def test_after_the_end_nobody_is_kept(crowd: Crowd, manager: Manager) -> None:
    """As far as the process is concerned: the service manager has been told before."""
    crowd.come(3)
    crowd.mirror.close()
    crowd.come(MESSAGES // 2)
    assert not manager.replaced
    assert len(manager.kept()) == 3
