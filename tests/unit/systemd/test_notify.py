"""Messages to the service manager."""

from __future__ import annotations

import logging
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from graced.log import events
from graced.systemd import notify
from graced.systemd.notify import Notifier
from support import PATIENCE, NotifySocket


@pytest.fixture
def notifier(notify_socket: NotifySocket, monkeypatch: pytest.MonkeyPatch) -> Notifier:
    monkeypatch.setenv("NOTIFY_SOCKET", notify_socket.name)
    return Notifier()


def test_each_message_is_sent(notifier: Notifier, notify_socket: NotifySocket) -> None:
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


def test_barrier_returns_when_the_messages_are_read(
    notifier: Notifier,
    notify_socket: NotifySocket,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(notify, "BARRIER_TIMEOUT", 0.2)
    notify_socket.hold_barriers = True
    began = time.monotonic()
    notifier.barrier()
    assert time.monotonic() - began >= 0.2
    (record,) = caplog.records
    assert record.msg is events.BARRIER_LATE
    notify_socket.release()
    monkeypatch.setattr(notify, "BARRIER_TIMEOUT", 3600.0)
    notifier.barrier()
    notifier.close()


def test_without_a_socket_nothing_is_sent(caplog: pytest.LogCaptureFixture) -> None:
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
def test_unusable_socket_is_one_warning(
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
def test_lost_socket_is_one_warning(
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
def test_watchdog_interval_is_read(
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
def test_bad_watchdog_interval_is_one_warning(
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


def test_service_manager_that_does_not_read_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The descriptor is sent when the service manager reads again."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notifier = Notifier()
        replace = notifier.replacer("graced-kept")
        for _ in range(1000):
            if not replace(manager.fileno()):
                break
        assert not replace(manager.fileno())
        (record,) = caplog.records
        assert record.msg is events.CANNOT_MIRROR
        for _ in range(2):
            _, descriptors, _, _ = socket.recv_fds(manager, 1000, 1)
            for fd in descriptors:
                os.close(fd)
        notifier.close()
        assert replace(manager.fileno()), "the function has a line of its own"
        assert len(caplog.records) == 1
        replace.close()


def test_lost_message_is_one_warning_and_the_next_is_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """systemd does not read for a while; the service is not deaf and dumb ever after."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setattr(notify, "IMPORTANT_TIMEOUT", 0.01)
        notifier = Notifier()
        for _ in range(1000):
            notifier.main_pid(1)
            if caplog.records:
                break
        notifier.main_pid(2)
        notifier.store("graced-listeners", [manager.fileno()])
        notifier.barrier()
        (record,) = caplog.records
        assert record.msg is events.NOTIFY_LOST
        assert notifier
        manager.setblocking(False)
        with suppress(BlockingIOError):
            for _ in range(1000):
                assert manager.recv(1000) == b"MAINPID=1"
        notifier.main_pid(3)
        assert manager.recv(1000) == b"MAINPID=3"
        notifier.close()
    assert len(caplog.records) == 1


def test_nothing_is_replaced_without_a_service_manager() -> None:
    assert not Notifier({}).replacer("graced-kept")(0)
