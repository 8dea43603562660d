"""Messages to the service manager."""

from __future__ import annotations

import errno
import logging
import math
import os
import select
import socket
import time
from contextlib import ExitStack, suppress
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
@pytest.mark.parametrize("name", ["/no/such/socket", "relative", "/" + "x" * 200, "vsock:2:9", "@"])
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


def test_descriptors_go_in_batches(notifier: Notifier, notify_socket: NotifySocket) -> None:
    """A message holds 253 descriptors at most, and a service may have more listeners."""
    over = []
    with ExitStack() as stack:
        files = [stack.enter_context(socket.socket()) for _ in range(254)]
        notifier.store("graced-listeners", files, sent=lambda: over.append(1))
        notifier.barrier()
        assert notifier.stores("graced-listeners")
    assert over == [1]
    text = "FDSTORE=1\nFDNAME=graced-listeners\nFDPOLL=0"
    assert notify_socket.texts == [text, text, "BARRIER=1"]
    notifier.close()


def test_status_is_one_assignment_that_systemd_takes(
    notifier: Notifier, notify_socket: NotifySocket
) -> None:
    notifier.status("\N{SNOWMAN}\nREADY=1" + 10_000 * "\N{SNOWMAN}")
    notifier.barrier()
    notifier.close()
    text = notify_socket.texts[0]
    assert text.startswith("STATUS=\N{SNOWMAN} READY=1")
    assert len(text.encode()) < 4096


@pytest.mark.parametrize(
    ("status", "sent"),
    [
        ("a\rSTOPPING=1", "a STOPPING=1"),
        ("a\0b", "a b"),
        ("\x1b[31mred\x7f\t", " [31mred  "),
        (1000 * "\udcff", 500 * "\\udcff"),
        (2000 * "\N{SNOWMAN}", 900 * "\N{SNOWMAN}"),
    ],
    ids=["CR", "NUL", "controls", "no UTF-8", "long"],
)
def test_no_status_costs_the_message_that_it_is_part_of(
    notifier: Notifier, notify_socket: NotifySocket, status: str, sent: str
) -> None:
    """systemd ignores a message with NUL, and one of 4096 bytes; CR begins an assignment."""
    notifier.ready(status)
    notifier.barrier()
    notifier.close()
    assert notify_socket.texts[0].startswith("READY=1\nSTATUS=" + sent[:400])
    assert len(notify_socket.texts[0].encode()) < 3100
    if len(sent) < 100:
        assert notify_socket.texts[0] == f"READY=1\nSTATUS={sent}"


def test_messages_wait_for_a_service_manager_that_does_not_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """systemd does not read for a while; the service is not deaf and dumb ever after."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setattr(notify, "BARRIER_TIMEOUT", 0.1)
        notifier = Notifier()
        while notifier.due == math.inf:
            notifier.feed_watchdog()
        notifier.status("late")
        notifier.store("graced-listeners", [manager])
        notifier.forget("graced-clients")
        assert not notifier.stores("graced-listeners")
        began = time.monotonic()
        notifier.barrier()
        assert time.monotonic() - began < PATIENCE / 2
        assert [record.msg for record in caplog.records] == [
            events.NOTIFY_LOST,
            events.BARRIER_LATE,
        ]
        assert notifier
        with suppress(BlockingIOError):
            while True:
                assert manager.recv(1000) == b"WATCHDOG=1"
        assert notifier.flush(PATIENCE)
        assert notifier.due == math.inf
        found = [manager.recv(1000).decode() for _ in range(4)]
        assert found == [
            "WATCHDOG=1",
            "STATUS=late",
            "FDSTORE=1\nFDNAME=graced-listeners\nFDPOLL=0",
            "FDSTOREREMOVE=1\nFDNAME=graced-clients",
        ]
        notifier.close()
    assert len(caplog.records) == 2


def test_barrier_without_a_descriptor_is_one_warning(
    notifier: Notifier, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full() -> tuple[int, int]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("graced.systemd.notify.os.pipe", full)
    notifier.barrier()
    (record,) = caplog.records
    assert record.msg is events.NOTIFY_LOST
    monkeypatch.undo()
    notifier.close()


def test_nothing_is_stored_without_a_service_manager() -> None:
    over = []
    notifier = Notifier({})
    with socket.socket() as sock:
        notifier.store("graced-clients", [sock], sent=lambda: over.append(1))
        notifier.replace("graced-kept", "graced-kept-2", sock, ["graced-kept"])
        notifier.forget("graced-kept")
    assert over == [1]
    assert notifier.flush(0.0)
    assert not notifier.listens_again()


def test_mute_process_says_nothing_until_it_speaks(
    notify_socket: NotifySocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", notify_socket.name)
    notifier = Notifier(mute=True)
    woken: list[bool] = []
    notifier.on_failure(lambda: woken.append(True))
    assert (notifier.managed, bool(notifier), notifier.due) == (True, False, math.inf)
    notifier.main_pid(7)
    notifier.barrier()
    notifier.speak()
    notifier.ready("serving")
    notify_socket.wait_for("READY=1")
    notifier.mute()
    notifier.stopping("going", 1.5)
    notifier.feed_watchdog()
    notifier.speak()
    notifier.status("again")
    notify_socket.wait_for("STATUS=again")
    notifier.close()
    assert notify_socket.texts == ["READY=1\nSTATUS=serving", "STATUS=again"]
    assert not woken


def test_barrier_is_a_descriptor_that_hangs_up(
    notifier: Notifier, notify_socket: NotifySocket
) -> None:
    notify_socket.hold_barriers = True
    read = notifier.begin_barrier()
    poll = select.poll()
    poll.register(read, 0)
    notify_socket.wait_for("BARRIER=1")
    assert not poll.poll(0)
    notify_socket.release()
    assert poll.poll(PATIENCE * 1000)
    os.close(read)
    notifier.close()


def test_name_that_waits_is_withdrawn(
    notifier: Notifier, notify_socket: NotifySocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as context:
        context.setattr("graced.systemd.outbox.Outbox._transmit", full)
        notifier.main_pid(7)
        read = notifier.begin_barrier()
        notifier.name_no_main_process()
    poll = select.poll()
    poll.register(read, 0)
    # The barrier is withdrawn, too: nobody has the other end.
    assert poll.poll(0)
    os.close(read)
    notifier.flush(PATIENCE)
    notifier.close()
    assert notify_socket.texts == []
