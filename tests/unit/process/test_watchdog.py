"""The watchdog: WATCHDOG=1 only while every I/O thread answers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from graced.process import watchdog
from graced.process.watchdog import Watchdog
from graced.systemd.notify import Notifier
from support import NotifySocket

WATCHDOG_SEC = 3.0


class Clock:
    """The monotonic time of the module under test."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class StubServer:
    """A server whose I/O threads answer a probe when the test says so."""

    def __init__(self) -> None:
        self.liveness = self
        self.late = ""
        self.probes = 0
        self.handler = ""
        self.place = ""

    def blocked_at(self) -> str:
        return self.place

    def probe(self) -> None:
        self.late = "an I/O thread"
        self.probes += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(watchdog, "time", clock)
    return clock


@pytest.fixture
def server() -> StubServer:
    return StubServer()


@pytest.fixture
def notifier(notify_socket: NotifySocket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notifier]:
    monkeypatch.setenv("NOTIFY_SOCKET", notify_socket.name)
    environ = {**notify_socket.environment, "WATCHDOG_USEC": str(int(WATCHDOG_SEC * 1_000_000))}
    notifier = Notifier(environ)
    yield notifier
    notifier.close()


def started(server: Any, notifier: Notifier) -> Watchdog:
    dog = Watchdog(server, notifier)
    dog.start()
    return dog


def fed(notify_socket: NotifySocket, notifier: Notifier) -> int:
    """The number of WATCHDOG=1 so far; the status line comes after all of them."""
    number = notify_socket.count("STATUS=")
    notifier.status("counted")
    notify_socket.wait_for("STATUS=", number + 1)
    return notify_socket.count("WATCHDOG=1")


def test_no_watchdog_is_never_due(server: Any, clock: Clock) -> None:
    dog = started(server, Notifier({}))
    assert dog.due == math.inf
    dog.look()
    assert server.probes == 0


def test_watchdog_is_not_due_before_start(server: Any, notifier: Notifier, clock: Clock) -> None:
    assert Watchdog(server, notifier).due == math.inf


def test_answered_probe_feeds_once(
    server: Any, notifier: Notifier, clock: Clock, notify_socket: NotifySocket
) -> None:
    dog = started(server, notifier)
    dog.look()
    assert server.probes == 1
    assert fed(notify_socket, notifier) == 0
    server.late = ""
    dog.look()
    dog.look()
    assert fed(notify_socket, notifier) == 1
    assert server.probes == 1


def test_probes_come_thrice_within_watchdog_sec(
    server: Any, notifier: Notifier, clock: Clock, notify_socket: NotifySocket
) -> None:
    dog = started(server, notifier)
    for number in range(1, 10):
        dog.look()
        assert server.probes == number
        assert dog.due == pytest.approx(clock.now + WATCHDOG_SEC / 3)
        server.late = ""
        dog.look()
        assert fed(notify_socket, notifier) == number
        clock.now = dog.due


def test_late_answer_is_one_warning_and_no_feeding(
    server: Any,
    notifier: Notifier,
    clock: Clock,
    notify_socket: NotifySocket,
    caplog: pytest.LogCaptureFixture,
) -> None:
    dog = started(server, notifier)
    dog.look()
    for _ in range(3):
        clock.now = dog.due
        dog.look()
    assert caplog.messages == ["an I/O thread has not turned for 1.0 s, not feeding the watchdog"]
    assert server.probes == 1
    assert fed(notify_socket, notifier) == 0
    server.late = ""
    dog.look()
    assert fed(notify_socket, notifier) == 1
    # The next late answer is a new warning.
    clock.now = dog.due
    dog.look()
    clock.now = dog.due
    dog.look()
    assert len(caplog.messages) == 2
