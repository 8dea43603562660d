"""The log: how a record looks at each place that it may go to, and that nobody waits for it."""

from __future__ import annotations

import os
import pty
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from graced.log import events, writer
from graced.log.events import ERROR, INFO, LEVELS, OTHER_MESSAGE_ID, WARNING, Event, Level, Record
from graced.log.writer import Flood, Journal, Log, Stderr, Syslog
from support import PATIENCE

CLIENT = "127.0.0.1:50000"


def record(text: str = "hello", level: Level = INFO, logger: str = "any") -> Record:
    """What a handler logs."""
    return Record(Event(OTHER_MESSAGE_ID, level, text), {}, logger=logger)


@contextmanager
def stderr() -> Iterator[int]:
    """The other end of what is descriptor 2 meanwhile (pytest undoes what a fixture does to it)."""
    read, write = os.pipe()
    saved = os.dup(2)
    os.dup2(write, 2)
    os.close(write)
    try:
        yield read
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(read)


@pytest.fixture
def own_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events may be sent to a log; afterwards they are not any more."""
    monkeypatch.setattr(events, "destination", None)


# Lines.


@pytest.mark.parametrize(
    ("level", "priority"),
    [("DEBUG", 7), ("INFO", 6), ("WARNING", 4), ("ERROR", 3), ("CRITICAL", 2)],
)
def test_a_line_for_a_machine_begins_with_its_priority(level: str, priority: int) -> None:
    with stderr() as read:
        Stderr(for_people=False).write(record(level=LEVELS[level]))
        assert os.read(read, 1000) == b"<%d>hello\n" % priority


def test_a_line_for_people_begins_with_time_and_level() -> None:
    with stderr() as read:
        Stderr(for_people=True).write(record())
        assert re.fullmatch(rb"\d\d:\d\d:\d\d\.\d{3} INFO     hello\n", os.read(read, 1000))
        late = record("two\nlines", WARNING)
        late.created = time.mktime((2026, 1, 2, 3, 4, 5, 0, 0, -1)) + 0.0625
        Stderr(for_people=True).write(late)
        lines = os.read(read, 1000).decode().splitlines()
        assert lines == ["03:04:05.062 WARNING  two", " " * 22 + "lines"]


def test_no_text_can_pass_for_a_record() -> None:
    """Neither with a line break nor with anything else that controls a terminal."""
    with stderr() as read:
        Stderr(for_people=False).write(record("one\n<3>two\x1b[31m\r\x9b\x7f\tthree"))
        assert os.read(read, 1000) == (b"<6>one\n<6>    <3>two\\x1b[31m\\x0d\\x9b\\x7f\\x09three\n")


def test_text_that_is_no_unicode_is_written_all_the_same() -> None:
    with stderr() as read:
        Stderr(for_people=False).write(record("\udcff"))
        assert os.read(read, 1000) == b"<6>\\udcff\n"


def test_a_long_message_keeps_its_ends() -> None:
    text = writer.message(record("begin" + "x" * 1_000_000 + "end"))
    assert text.startswith("begin")
    assert text.endswith("end")
    assert "\n[...]\n" in text
    assert len(text) < 50_000


def test_a_traceback_is_part_of_the_message(own_log: None) -> None:
    written: list[str] = []

    class Listing:
        def write(self, record: Record) -> None:
            written.append(writer.message(record))

        def flush(self, timeout: float) -> None: ...

    writer.open_log("info", Listing())
    with pytest.raises(ValueError, match="as expected") as caught:
        raise ValueError("as expected")
    events.HANDLER_FAILED(client=CLIENT, reason="ValueError", exc_info=caught.value)
    (text,) = written
    assert "\nTraceback (most recent call last):\n" in text
    assert text.endswith("\nValueError: as expected")


# Sockets.


@pytest.fixture
def datagrams(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "log"))
        sock.settimeout(PATIENCE)
        yield sock


def close(sink: Journal | Syslog) -> None:
    sink._socket.close()


def fields(datagram: bytes) -> dict[str, str]:
    """Of journald's native protocol."""
    found = {}
    while datagram:
        line, _, datagram = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack_from("<Q", datagram)
            value, datagram = datagram[8 : 8 + size], datagram[8 + size + 1 :]
        found[name.decode()] = value.decode()
    return found


def test_an_event_has_its_fields_in_the_journal(datagrams: socket.socket) -> None:
    sink = Journal(datagrams.getsockname())
    values = {"client": CLIENT, "reason": "idle", "bytes": 5, "seconds": 1.5}
    sink.write(Record(events.CLOSED, values))
    assert fields(datagrams.recv(65536)) == {
        "MESSAGE": f"closing connection from {CLIENT}: idle, 5 bytes echoed in 1.500 s",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "graced",
        "MESSAGE_ID": events.CLOSED.message_id,
        "GRACED_CLIENT": CLIENT,
        "GRACED_REASON": "idle",
        "GRACED_BYTES": "5",
        "GRACED_SECONDS": "1.5",
    }
    close(sink)


def test_what_a_handler_logs_itself_is_in_the_journal_too(datagrams: socket.socket) -> None:
    sink = Journal(datagrams.getsockname())
    sink.write(record("two\nlines=2", WARNING, "mine"))
    assert fields(datagrams.recv(65536)) == {
        "MESSAGE": "two\nlines=2",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "graced",
        "MESSAGE_ID": events.OTHER_MESSAGE_ID,
        "LOGGER": "mine",
    }
    close(sink)


def test_flushing_waits_until_the_journal_has_read(datagrams: socket.socket) -> None:
    sink = Journal(datagrams.getsockname())
    sink.write(record())
    sink.flush(0.05)
    assert fields(datagrams.recv(65536))["MESSAGE"] == "hello"
    assert datagrams.recv(65536) == b""
    read = []

    def reader() -> None:
        for _ in range(2):
            read.append(datagrams.recv(65536))

    sink.write(record())
    thread = threading.Thread(target=reader)
    thread.start()
    sink.flush(PATIENCE)
    thread.join()
    assert len(read) == 2
    close(sink)


def test_a_line_for_syslog(datagrams: socket.socket) -> None:
    sink = Syslog(datagrams.getsockname())
    sink.write(record("two\nlines", ERROR))
    for line in ("two", "lines"):
        assert datagrams.recv(65536).decode() == f"<27>graced[{os.getpid()}]: {line}"
    sink.flush(0)
    close(sink)


# Where to.


def test_stderr_is_for_people_when_it_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with stderr() as read:
        monkeypatch.delenv("JOURNAL_STREAM", raising=False)
        sink = writer.sink_for(detached=False)
        assert isinstance(sink, Stderr)
        sink.write(record())
        assert os.read(read, 1000) == b"<6>hello\n"
        ours, theirs = pty.openpty()
        os.dup2(theirs, 2)
        os.close(theirs)
        assert not writer.stderr_outlives_us()
        sink = writer.sink_for(detached=False)
        assert isinstance(sink, Stderr)
        sink.write(record())
        assert b"INFO     hello" in os.read(ours, 1000)
        os.close(ours)


def test_what_a_daemon_may_go_on_writing_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stderr():
        monkeypatch.delenv("JOURNAL_STREAM", raising=False)
        assert not writer.stderr_outlives_us(), "who reads a pipe waits for its end"
        status = os.fstat(2)
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert writer.stderr_is_journal()
        assert writer.stderr_outlives_us()
        file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 2)
        os.close(file)
        assert not writer.stderr_is_journal(), "redirected since"
        assert writer.stderr_outlives_us()


@pytest.mark.parametrize("kind", [Journal, Syslog])
def test_a_detached_daemon_logs_to_the_socket_that_is_there(
    kind: type[Journal | Syslog],
    datagrams: socket.socket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = {Journal: "JOURNAL_SOCKET", Syslog: "SYSLOG_SOCKET"}
    for each, name in paths.items():
        path = datagrams.getsockname() if each is kind else str(tmp_path / "missing")
        monkeypatch.setattr(writer, name, path)
    sink = writer.sink_for(detached=True)
    assert type(sink) is kind
    close(sink)


def test_a_detached_daemon_without_any_has_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(writer, "JOURNAL_SOCKET", str(tmp_path / "missing"))
    monkeypatch.setattr(writer, "SYSLOG_SOCKET", str(tmp_path / "file"))
    assert isinstance(writer.sink_for(detached=True), Stderr)


# In the background.


class Gate:
    """A sink that writes when it is let, and remembers what."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.waiting = threading.Event()
        self.texts: list[str] = []
        self.fails = False
        self.flushed = False

    def write(self, record: Record) -> None:
        self.waiting.set()
        assert self.open.wait(PATIENCE)
        if self.fails:
            raise OSError("no space left")
        self.texts.append(writer.message(record))

    def flush(self, timeout: float) -> None:
        self.flushed = True


@pytest.fixture
def gate(own_log: None) -> Gate:
    return Gate()


def test_before_the_thread_there_is_no_waiting(gate: Gate) -> None:
    gate.open.set()
    log = writer.open_log("info", gate)
    events.CONNECTED(client=CLIENT)
    assert gate.texts == [f"connection from {CLIENT}"]
    log.stop()


def test_nobody_waits_for_the_sink_and_the_order_is_kept(gate: Gate) -> None:
    log = writer.open_log("info", gate)
    log.start()
    for number in range(100):
        log.put(record(str(number)))
    gate.open.set()
    log.stop()
    assert gate.texts == [str(number) for number in range(100)]
    assert gate.flushed


def test_what_does_not_fit_is_dropped_and_counted(gate: Gate) -> None:
    log = Log(gate, INFO, capacity=10)
    log.start()
    log.put(record("first"))
    assert gate.waiting.wait(PATIENCE)
    for number in range(15):
        log.put(record(str(number)))
    gate.open.set()
    log.stop()
    assert gate.texts[:11] == ["first", *map(str, range(10))]
    assert gate.texts[11:] == ["dropped 5 log records because the log could not keep up"]


def test_what_cannot_be_written_is_counted_when_it_can_again(gate: Gate) -> None:
    gate.open.set()
    gate.fails = True
    log = writer.open_log("info", gate)
    for _ in range(3):
        log.put(record("lost"))
    gate.fails = False
    log.start()
    log.put(record("found"))
    log.stop()
    assert gate.texts == [
        "found",
        "dropped 3 log records because the log could not keep up",
    ]


def test_a_flood_of_clients_is_not_logged_but_counted(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.open.set()
    log = writer.open_log("info", gate)
    monkeypatch.setattr(log, "_flood", Flood(burst=5, rate=0))
    log.start()
    for _ in range(8):
        events.CONNECTED(client=CLIENT)
    events.SIGNAL_AGAIN(signal="SIGTERM")
    log.stop()
    assert gate.texts.count(f"connection from {CLIENT}") == 5
    assert "SIGTERM received, already closing" in gate.texts
    counts = re.findall(r"^suppressed (\d+) log records? about", "\n".join(gate.texts), re.M)
    assert sum(map(int, counts)) == 3


def test_a_sink_that_hangs_does_not_hold_up_the_end(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PATIENCE", 0.05)
    log = writer.open_log("info", gate)
    log.start()
    events.CONNECTED(client=CLIENT)
    assert gate.waiting.wait(PATIENCE)
    log.stop()
    assert not gate.texts
    gate.open.set()
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "log"]
    thread.join(PATIENCE)


def test_the_level_holds_for_all(gate: Gate) -> None:
    gate.open.set()
    log = writer.open_log("warning", gate)
    events.CONNECTED(client=CLIENT)
    events.HANDLERS_STUCK(handlers=1)
    log.stop()
    assert gate.texts == ["exiting without waiting longer for 1 handler"]
    assert not events.RECEIVED.enabled()


def test_the_bucket_of_a_flood_fills_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("graced.log.writer.time.monotonic", lambda: now)
    flood = Flood(burst=3, rate=2)
    assert [flood.admits() for _ in range(5)] == [True] * 3 + [False] * 2
    now = 1.0
    assert [flood.admits() for _ in range(3)] == [True] * 2 + [False]
    now = 1000.0
    assert [flood.admits() for _ in range(4)] == [True] * 3 + [False]
