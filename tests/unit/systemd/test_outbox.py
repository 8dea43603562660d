"""The queue of messages to the service manager, over real datagram sockets."""

from __future__ import annotations

import errno
import math
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from graced.log import events
from graced.systemd import outbox
from graced.systemd.outbox import Message, Outbox
from support import PATIENCE, fill_queue

PASSING = ["ENOBUFS", "ENOMEM", "EAGAIN", "ETOOMANYREFS", "EPERM", "EACCES", "EIO", "EINTR"]


class Line(socket.socket):
    """A socket whose next sends fail with the errors that the test names."""

    failures: list[str]
    only_descriptors = False

    def _fail(self) -> None:
        if self.failures:
            number = getattr(errno, self.failures.pop(0))
            raise OSError(number, os.strerror(number))

    def send(self, *arguments: Any) -> int:
        if not self.only_descriptors:
            self._fail()
        return super().send(*arguments)

    def sendmsg(self, *arguments: Any) -> int:
        self._fail()
        return super().sendmsg(*arguments)


class Manager:
    """The service manager's end, and the line to it."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.refused = 0
        """Connects that fail before one succeeds."""
        self.line = Line(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.line.failures = []
        self.listen()

    def listen(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.setblocking(False)

    def vanish(self) -> None:
        self.socket.close()
        os.unlink(self.path)

    def connect(self) -> socket.socket:
        if self.refused:
            self.refused -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if self.line.fileno() < 0:
            self.line = Line(socket.AF_UNIX, socket.SOCK_DGRAM)
            self.line.failures = []
        self.line.connect(self.path)
        return self.line

    def read(self) -> list[tuple[str, int]]:
        """Text and number of descriptors of each message in the queue."""
        found: list[tuple[str, int]] = []
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.socket, 65536, 253)
            except BlockingIOError:
                return found
            for fd in fds:
                os.close(fd)
            found.append((data.decode(), len(fds)))

    def texts(self) -> list[str]:
        return [text for text, _ in self.read()]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.line.close()
    manager.socket.close()


@pytest.fixture
def queue(manager: Manager) -> Iterator[Outbox]:
    queue = Outbox(manager.connect, manager.path)
    yield queue
    queue.close()


def word(text: str) -> Message:
    return Message(text, subject=text.partition("=")[0])


@pytest.mark.parametrize("error", PASSING)
def test_message_that_fails_is_sent_again(
    error: str, manager: Manager, queue: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    manager.line.failures = [error, error]
    queue.put(word("READY=1"))
    assert manager.texts() == []
    assert queue.due < math.inf
    queue.put(word("WATCHDOG=1"))
    assert manager.texts() == []
    assert queue.flush()
    assert manager.texts() == ["READY=1", "WATCHDOG=1"]
    assert queue.due == math.inf
    (record,) = caplog.records
    assert record.msg is events.NOTIFY_LOST
    manager.line.failures = [error]
    queue.put(word("WATCHDOG=1"))
    assert len(caplog.records) == 2, "each row of failures is one warning"


def test_queue_full_of_others_messages_is_waited_out(manager: Manager, queue: Outbox) -> None:
    fill_queue(manager.path)
    queue.put(word("READY=1"))
    assert queue.waits("READY")
    assert not queue.flush(0.05)
    reader = threading.Timer(0.05, manager.socket.recv, [10])
    reader.start()
    assert queue.flush(PATIENCE)
    reader.join()
    assert manager.texts()[-1] == "READY=1"


@pytest.mark.parametrize("error", ["ENOBUFS", "ENOMEM"])
def test_flush_waits_out_an_error_without_an_event(
    error: str, manager: Manager, queue: Outbox
) -> None:
    manager.line.failures = [error] * 3
    queue.put(word("READY=1"))
    assert queue.flush(PATIENCE)
    assert manager.texts() == ["READY=1"]


def test_flush_does_not_wait_for_what_will_not_pass(manager: Manager, queue: Outbox) -> None:
    manager.line.failures = ["EPERM"] * 2
    queue.put(word("READY=1"))
    assert not queue.flush(3600.0)


def test_queue_stays_short_and_ends_with_the_last_state(manager: Manager, queue: Outbox) -> None:
    others = fill_queue(manager.path)
    for number in range(1000):
        queue.put(word(f"STATUS={number}"))
        queue.put(word("WATCHDOG=1"))
    assert manager.texts() == ["x"] * others
    assert queue.flush()
    assert manager.texts() == ["STATUS=999", "WATCHDOG=1"]


@pytest.mark.parametrize("error", ["ETOOMANYREFS", "EPERM", "ENOBUFS"])
def test_failing_descriptors_hold_up_no_word(error: str, manager: Manager, queue: Outbox) -> None:
    """A service that cannot store descriptors is not killed by the watchdog."""
    manager.line.failures = [error] * 100
    manager.line.only_descriptors = True
    with socket.socket() as one, socket.socket() as two:
        queue.put(Message("FDSTORE=1 a", subject="FDSTORE a", lane="a", files=[one]))
        queue.put(Message("FDSTORE=1 a", subject="FDSTORE a", lane="a", files=[two]))
        queue.put(word("WATCHDOG=1"))
        assert manager.texts() == ["WATCHDOG=1"]
        manager.line.failures = []
        assert queue.flush()
        assert manager.read() == [("FDSTORE=1 a", 1)] * 2, "the first is not replaced"


def test_lane_keeps_its_order(manager: Manager, queue: Outbox) -> None:
    manager.line.failures = ["ENOBUFS"]
    with socket.socket() as one:
        queue.put(Message("FDSTORE=1", subject="FDSTORE a", lane="a", files=[one]))
        queue.put(Message("FDSTOREREMOVE=1", subject="FDSTOREREMOVE a", lane="a"))
        assert manager.texts() == ["FDSTORE=1", "FDSTOREREMOVE=1"]


def test_removed_name_withdraws_what_waits(manager: Manager, queue: Outbox) -> None:
    over = []
    manager.line.failures = ["ENOBUFS"]
    with socket.socket() as one:
        store = Message(
            "FDSTORE=1", subject="s", lane="a", files=[one], sent=lambda: over.append("store")
        )
        queue.put(store)
        assert not over
        queue.replace("a", Message("FDSTOREREMOVE=1", subject="r", lane="a"))
    assert over == ["store"]
    assert manager.texts() == ["FDSTOREREMOVE=1"]


@pytest.mark.parametrize("error", ["EMSGSIZE", "EINVAL"])
def test_message_that_can_never_be_sent_holds_up_no_other(
    error: str, manager: Manager, queue: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    manager.line.failures = [error]
    queue.put(word("STATUS=1"))
    queue.put(word("WATCHDOG=1"))
    assert manager.texts() == ["WATCHDOG=1"]
    assert queue.due == math.inf
    (message,) = caplog.messages
    assert message.endswith("given up")


def test_message_too_long_for_systemd_is_dropped(
    manager: Manager, queue: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    queue.put(word("STATUS=" + "x" * outbox.MAX_SIZE))
    assert manager.texts() == []
    assert caplog.messages == [
        "a message to the service manager is lost, sending it again: Message too long, given up"
    ]


def test_closed_file_is_left_out(manager: Manager, queue: Outbox) -> None:
    """And not sent under a number that is another file's by now."""
    manager.line.failures = ["ENOBUFS"]
    with ExitStack() as stack:
        files = [stack.enter_context(socket.socket()) for _ in range(2)]
        queue.put(Message("FDSTORE=1", subject="s", lane="a", files=files))
        files[0].close()
        assert queue.flush()
    assert manager.read() == [("FDSTORE=1", 1)]


def test_retries_come_more_and_more_seldom(
    manager: Manager, queue: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("graced.systemd.outbox.time.monotonic", lambda: now)
    manager.line.failures = ["EPERM"] * 1000
    woken = []
    queue.wake = lambda: woken.append(now)
    queue.put(word("READY=1"))
    pauses = []
    for _ in range(10):
        pauses.append(queue.due - now)
        now = queue.due
        queue.flush()
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5, 5])
    assert len(woken) == 1, "the caller looks at `due` from then on"


@pytest.mark.parametrize("unlinked", [False, True])
def test_absent_manager_is_silence_until_it_is_asked_for(
    unlinked: bool, manager: Manager, queue: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    manager.socket.close()
    if unlinked:
        os.unlink(manager.path)
    queue.put(word("STATUS=1"))
    queue.put(word("STATUS=2"))
    assert queue.broken
    assert queue.due == math.inf
    assert not queue.try_again()
    (record,) = caplog.records
    assert record.msg is events.NOTIFY_BROKEN
    if not unlinked:
        os.unlink(manager.path)
    manager.listen()
    queue.put(word("STATUS=3"))
    assert manager.texts() == []
    assert queue.try_again()
    assert manager.texts() == ["STATUS=3"]
    queue.put(word("STATUS=4"))
    assert manager.texts() == ["STATUS=4"]


def test_manager_that_listens_anew_misses_nothing(
    manager: Manager, queue: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    manager.vanish()
    manager.listen()
    queue.put(word("READY=1"))
    assert manager.texts() == ["READY=1"]
    assert not caplog.records


def test_each_loss_of_the_manager_is_one_warning(
    manager: Manager, queue: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1, 4):
        manager.vanish()
        queue.put(word("STATUS=1"))
        queue.put(word("STATUS=2"))
        manager.listen()
        assert queue.try_again()
        assert manager.texts() == ["STATUS=2"]
        assert [record.msg for record in caplog.records] == [events.NOTIFY_BROKEN] * number


def test_connect_that_fails_for_a_moment_is_tried_again(
    manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    manager.refused = 2
    queue = Outbox(manager.connect, manager.path)
    assert not queue.broken
    queue.put(word("READY=1"))
    assert queue.flush()
    assert manager.texts() == ["READY=1"]
    (record,) = caplog.records
    assert record.msg is events.NOTIFY_BROKEN
    queue.close()


def test_threads_lose_nothing(manager: Manager, queue: Outbox) -> None:
    """The mirror stores descriptors in I/O threads."""
    manager.socket.setblocking(True)
    received = []

    def receive() -> None:
        while (data := manager.socket.recv(100)) != b"end":
            received.append(data)

    reader = threading.Thread(target=receive)
    reader.start()

    def send(name: str) -> None:
        for number in range(200):
            queue.put(Message(f"{name}={number}", subject=f"{name}{number}", lane=name))

    threads = [threading.Thread(target=send, args=[name]) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert queue.flush(PATIENCE)
    queue.put(word("end"))
    assert queue.flush(PATIENCE)
    reader.join()
    for name in "abcd":
        mine = [data for data in received if data.startswith(name.encode())]
        assert mine == [f"{name}={number}".encode() for number in range(200)]


def test_bursts_of_failures_keep_each_name_and_its_order(manager: Manager, queue: Outbox) -> None:
    """Every other message fails, of several names, some with descriptors."""
    passing = ["ENOBUFS", "ENOMEM", "EAGAIN", "ETOOMANYREFS"]
    manager.line.failures = [passing[n % 4] for n in range(20)]
    for n in range(4):
        for name in "ab":
            subject = f"FDNAME={name}{n}"
            queue.put(Message(subject, subject=subject, lane=name, files=[manager.socket]))
        queue.put(word(f"STATUS={n}"))
    assert queue.flush(PATIENCE)
    found = manager.read()
    for name in "ab":
        theirs = [item for item in found if item[0].startswith(f"FDNAME={name}")]
        assert theirs == [(f"FDNAME={name}{n}", 1) for n in range(4)]
    assert [text for text, _ in found if text.startswith("STATUS")][-1] == "STATUS=3"


def test_queue_that_is_full_for_long_is_short_and_tried_seldom(
    manager: Manager, queue: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour in which the service manager does not read, by the queue's own clock."""
    now = [1000.0]
    monkeypatch.setattr("graced.systemd.outbox.time.monotonic", lambda: now[0])
    manager.line.failures = ["EAGAIN"] * 10000
    queue.put(word("READY=1"))
    tries = 0
    while now[0] < 4600:
        now[0] = queue.due
        tries += 1
        queue.put(word(f"WATCHDOG={tries}"), word(f"STATUS={tries}"))
    assert 3600 / 5 <= tries < 3600 / 5 + 10
    manager.line.failures = []
    assert queue.flush()
    assert manager.texts() == ["READY=1", f"WATCHDOG={tries}", f"STATUS={tries}"]
