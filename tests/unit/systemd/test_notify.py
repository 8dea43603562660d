"""The words of sd_notify(3)."""

from __future__ import annotations

import logging
import os
import time

import pytest

from graced.systemd import notify
from graced.systemd.notify import Notifier
from support import NotifySocket


@pytest.fixture
def notifier(notify_socket: NotifySocket, monkeypatch: pytest.MonkeyPatch) -> Notifier:
    monkeypatch.setenv("NOTIFY_SOCKET", notify_socket.name)
    return Notifier()


def test_the_words(notifier: Notifier, notify_socket: NotifySocket) -> None:
    assert notifier
    notifier.ready("serving")
    notifier.status("still serving")
    notifier.feed_watchdog()
    notifier.main_pid(7)
    notifier.barrier()
    notifier.stopping("going", 1.5)
    notify_socket.wait_for("STOPPING")
    notifier.close()
    assert notify_socket.texts == [
        "READY=1\nSTATUS=serving",
        "STATUS=still serving",
        "WATCHDOG=1",
        "MAINPID=7",
        "BARRIER=1",
        "STOPPING=1\nSTATUS=going\nEXTEND_TIMEOUT_USEC=1500000",
    ]


def test_a_barrier_returns_when_it_is_passed_and_not_before(
    notifier: Notifier, notify_socket: NotifySocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "BARRIER_TIMEOUT", 0.2)
    notify_socket.hold_barriers = True
    began = time.monotonic()
    notifier.barrier()
    assert time.monotonic() - began >= 0.2
    notify_socket.release()
    monkeypatch.setattr(notify, "BARRIER_TIMEOUT", 3600.0)
    notifier.barrier()
    notifier.close()


def test_without_a_socket_it_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier({"WATCHDOG_USEC": "1000000"})
    assert not notifier
    assert notifier.watchdog == 0
    notifier.ready("serving")
    notifier.barrier()
    notifier.close()
    assert not caplog.records


# sdnotify leaves a socket that it could not connect to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", ["/no/such/socket", "relative", "/" + "x" * 200])
def test_a_socket_that_cannot_be_used_is_one_warning(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    notifier = Notifier()
    notifier.ready("serving")
    notifier.barrier()
    notifier.stopping("going", 1.0)
    assert not notifier
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("cannot talk to the service manager: ")


@pytest.mark.parametrize("first", ["_send", "barrier"])
def test_a_socket_that_goes_is_one_warning(
    first: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with NotifySocket() as gone:
        monkeypatch.setenv("NOTIFY_SOCKET", gone.name)
        notifier = Notifier()
    if first == "_send":
        notifier.ready("serving")
    notifier.barrier()
    notifier.ready("serving")
    assert not notifier
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "1500000"}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_PID": str(os.getpid())}, 0.0),
        ({"WATCHDOG_USEC": "0"}, 0.0),
    ],
)
def test_the_watchdog(
    environ: dict[str, str],
    seconds: float,
    notify_socket: NotifySocket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", notify_socket.name)
    environ = {**environ, **notify_socket.environment}
    notifier = Notifier(environ)
    assert notifier.watchdog == seconds
    assert environ == notify_socket.environment, "a child may believe that it is meant"
    notifier.close()


@pytest.mark.parametrize("usec", ["often", "-1", "\u0663", "9" * 30, "1.5"])
def test_a_watchdog_that_makes_no_sense_is_one_warning(
    usec: str,
    notify_socket: NotifySocket,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", notify_socket.name)
    notifier = Notifier({"WATCHDOG_USEC": usec, **notify_socket.environment})
    assert notifier.watchdog == 0
    assert notifier
    assert len(caplog.records) == 1
    notifier.close()
