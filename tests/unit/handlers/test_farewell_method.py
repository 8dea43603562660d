"""A handler's method `farewell`, which is called in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import ClassVar

import pytest

from graced.handlers import goodbye
from graced.handlers.handler_socket import HandlerSocket
from handlers.pair import Make, Running, say_goodbye, wait_for_the_gap
from support import FAREWELL


class LaterThread:
    """A thread that runs when the test says so; `refused`: the system has none."""

    waiting: ClassVar[list[Callable[[], None]]] = []
    refused = False

    def __init__(self, *, target: Callable[[], None], **_options: object) -> None:
        self._target = target

    def start(self) -> None:
        if self.refused:
            raise RuntimeError("can't start new thread")
        self.waiting.append(self._target)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> type[LaterThread]:
    class Later(LaterThread):
        waiting: ClassVar[list[Callable[[], None]]] = []

    monkeypatch.setattr(goodbye, "Thread", Later)
    return Later


def test_farewell_of_a_method_is_not_in_an_answer(make: Make, later: type[LaterThread]) -> None:
    """A request comes after the look at the client, and before the method is called."""
    go_on = threading.Event()
    pair = make(farewell=None)
    pair.handler.words = lambda: FAREWELL

    def handle(sock: HandlerSocket) -> None:
        while sock.recv(100):
            sock.sendall(b"one, ")
            go_on.wait()
            sock.sendall(b"two")

    with Running(pair, handle) as running:
        running.wait_until_asleep()
        wait_for_the_gap(pair)
        assert say_goodbye(pair) == goodbye.RETRY
        pair.client.send(b"?")
        assert pair.client.recv() == b"one, "
        later.waiting.pop()()
        go_on.set()
        assert pair.client.recv_exactly(3) == b"two"
        pair.client.expect_farewell_alone()


def test_method_is_called_when_there_is_a_thread(make: Make, later: type[LaterThread]) -> None:
    pair = make(farewell=None)
    pair.handler.words = lambda: FAREWELL
    wait_for_the_gap(pair)
    later.refused = True
    assert say_goodbye(pair) == goodbye.RETRY
    later.refused = False
    assert say_goodbye(pair) == goodbye.RETRY
    later.waiting.pop()()
    pair.client.expect_farewell_alone()
