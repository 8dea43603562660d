"""The sinks: how a record looks at each place that the log can be written to."""

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

from graced.log import events, sinks
from graced.log.event import ERROR, INFO, LEVELS, OTHER_MESSAGE_ID, WARNING, Event, Level, Record
from graced.log.sinks import Journal, Stderr, Syslog
from support import PATIENCE

CLIENT = "127.0.0.1:50000"


def record(text: str = "hello", level: Level = INFO, logger: str = "any") -> Record:
    """A record of a handler."""
    return Record(Event(OTHER_MESSAGE_ID, level, text), {}, logger=logger)


@contextmanager
def stderr() -> Iterator[int]:
    """Make descriptor 2 a pipe and yield its other end (pytest restores 2 around fixtures)."""
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


# Lines.


@pytest.mark.parametrize(
    ("level", "priority"),
    [("DEBUG", 7), ("INFO", 6), ("WARNING", 4), ("ERROR", 3), ("CRITICAL", 2)],
)
def test_line_for_machines_begins_with_priority(level: str, priority: int) -> None:
    with stderr() as read:
        Stderr(for_people=False).write(record(level=LEVELS[level]))
        assert os.read(read, 1000) == b"<%d>hello\n" % priority


def test_line_for_people_begins_with_time_and_level() -> None:
    with stderr() as read:
        Stderr(for_people=True).write(record())
        assert re.fullmatch(rb"\d\d:\d\d:\d\d\.\d{3} INFO     hello\n", os.read(read, 1000))
        late = record("two\nlines", WARNING)
        late.created = time.mktime((2026, 1, 2, 3, 4, 5, 0, 0, -1)) + 0.0625
        Stderr(for_people=True).write(late)
        lines = os.read(read, 1000).decode().splitlines()
        assert lines == ["03:04:05.062 WARNING  two", " " * 22 + "lines"]


def test_text_of_a_client_cannot_pass_for_a_record() -> None:
    """Line breaks are indented, control characters are escaped."""
    with stderr() as read:
        Stderr(for_people=False).write(record("one\n<3>two\x1b[31m\r\x9b\x7f\tthree"))
        assert os.read(read, 1000) == (b"<6>one\n<6>    <3>two\\x1b[31m\\x0d\\x9b\\x7f\\x09three\n")


def test_surrogates_are_escaped() -> None:
    with stderr() as read:
        Stderr(for_people=False).write(record("\udcff"))
        assert os.read(read, 1000) == b"<6>\\udcff\n"


def test_long_message_keeps_both_ends() -> None:
    text = sinks.message(record("begin" + "x" * 1_000_000 + "end"))
    assert text.startswith("begin")
    assert text.endswith("end")
    assert "\n[...]\n" in text
    assert len(text) < 50_000


# Sockets.


@pytest.fixture
def datagrams(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "log"))
        sock.settimeout(PATIENCE)
        yield sock


def fields(datagram: bytes) -> dict[str, str]:
    """The fields of a datagram in the native protocol of journald."""
    found = {}
    while datagram:
        line, _, datagram = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack_from("<Q", datagram)
            value, datagram = datagram[8 : 8 + size], datagram[8 + size + 1 :]
        found[name.decode()] = value.decode()
    return found


def test_journal_gets_fields_of_event(datagrams: socket.socket) -> None:
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
    sink.close()


def test_journal_gets_logger_and_multiline_message(datagrams: socket.socket) -> None:
    sink = Journal(datagrams.getsockname())
    sink.write(record("two\nlines=2", WARNING, "mine"))
    assert fields(datagrams.recv(65536)) == {
        "MESSAGE": "two\nlines=2",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "graced",
        "MESSAGE_ID": OTHER_MESSAGE_ID,
        "LOGGER": "mine",
    }
    sink.close()


def test_journal_flush_waits_for_reader(datagrams: socket.socket) -> None:
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
    sink.close()


def test_syslog_gets_one_datagram_per_line(datagrams: socket.socket) -> None:
    sink = Syslog(datagrams.getsockname())
    sink.write(record("two\nlines", ERROR))
    for line in ("two", "lines"):
        assert datagrams.recv(65536).decode() == f"<27>graced[{os.getpid()}]: {line}"
    sink.flush(0)
    sink.close()


# The choice of a sink.


def test_terminal_gets_lines_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    with stderr() as read:
        monkeypatch.delenv("JOURNAL_STREAM", raising=False)
        sink = sinks.sink_for(detached=False)
        assert isinstance(sink, Stderr)
        sink.write(record())
        assert os.read(read, 1000) == b"<6>hello\n"
        ours, theirs = pty.openpty()
        os.dup2(theirs, 2)
        os.close(theirs)
        assert not sinks.stderr_outlives_us()
        sink = sinks.sink_for(detached=False)
        assert isinstance(sink, Stderr)
        sink.write(record())
        assert b"INFO     hello" in os.read(ours, 1000)
        os.close(ours)


def test_stderr_outlives_us_as_journal_or_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stderr():
        monkeypatch.delenv("JOURNAL_STREAM", raising=False)
        assert not sinks.stderr_outlives_us(), "the reader of a pipe waits for end of file"
        status = os.fstat(2)
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert sinks.stderr_is_journal()
        assert sinks.stderr_outlives_us()
        file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 2)
        os.close(file)
        assert not sinks.stderr_is_journal(), "stderr was redirected"
        assert sinks.stderr_outlives_us()


@pytest.mark.parametrize("kind", [Journal, Syslog])
def test_detached_daemon_logs_to_available_socket(
    kind: type[Journal | Syslog],
    datagrams: socket.socket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = {Journal: "JOURNAL_SOCKET", Syslog: "SYSLOG_SOCKET"}
    for each, name in paths.items():
        path = datagrams.getsockname() if each is kind else str(tmp_path / "missing")
        monkeypatch.setattr(sinks, name, path)
    sink = sinks.sink_for(detached=True)
    assert type(sink) is kind
    sink.close()


def test_detached_daemon_without_log_sockets_uses_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sinks, "JOURNAL_SOCKET", str(tmp_path / "missing"))
    monkeypatch.setattr(sinks, "SYSLOG_SOCKET", str(tmp_path / "file"))
    assert isinstance(sinks.sink_for(detached=True), Stderr)
