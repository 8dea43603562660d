"""The sinks: how a record looks at each place that the log can be written to."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import select
import socket
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from graced.log import events, sinks
from graced.log.event import ERROR, LEVELS, OTHER_MESSAGE_ID, WARNING, Record
from graced.log.held import MAX_HELD
from graced.log.sinks import Journal, Stderr, Syslog
from log.records import record, stderr
from support import PATIENCE

CLIENT = "127.0.0.1:50000"


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


def test_only_what_cannot_be_printed_is_escaped() -> None:
    """A text that can be printed is not looked at again."""
    assert not [code for code in sinks.CONTROL if chr(code).isprintable()]


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


LONG = 300_000


@pytest.mark.parametrize(
    "character", ["x", "\x1b", "\u2028", "\N{SNOWMAN}", "\U0001f600", "\udcff"]
)
def test_message_is_limited_in_bytes(character: str) -> None:
    """One character may be six bytes when it is escaped."""
    text = sinks.message(record("begin" + character * LONG + "end"))
    assert len(text.encode("utf-8", "backslashreplace")) < 50_000
    assert text.startswith("begin")
    assert text.endswith("end")
    assert text.count("\n[...]\n") == 1


def test_message_is_limited_in_lines() -> None:
    """Each would be a datagram of syslog, and an indent on stderr."""
    text = sinks.message(record("begin" + "\n" * 40_000 + "end"))
    assert text.count("\n") < 1100
    assert text.startswith("begin\n")
    assert text.endswith("\nend")


class Unprintable:
    """A value whose text raises."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_value_without_a_text_costs_no_record(datagrams: socket.socket) -> None:
    sink = Journal(datagrams.getsockname())
    sink.write(Record(events.NOT_STARTED, {"reason": Unprintable()}))
    found = fields(datagrams.recv(65536))
    assert found["MESSAGE"] == "cannot start: %(reason)s (not formatted: RuntimeError)"
    assert found["GRACED_REASON"] == "(not formatted: RuntimeError)"
    sink.close()


def test_torn_record_on_stderr_does_not_swallow_the_next() -> None:
    with stderr() as read:
        os.set_blocking(2, False)
        os.set_blocking(read, False)
        size = 0
        with suppress(BlockingIOError):
            while True:
                size += os.write(2, b"x" * 100)
        os.read(read, 4096)
        sink = Stderr(for_people=False)
        blocked = threading.Thread(target=sink.write, args=[record("y" * 10_000)])
        blocked.start()
        text = b""
        while b"y\n" not in text:
            poll = select.poll()
            poll.register(read, select.POLLIN)
            assert poll.poll(PATIENCE * 1000)
            text += os.read(read, 65536)
        blocked.join(PATIENCE)
        assert text.endswith(b"<6>" + b"y" * 10_000 + b"\n"), "a pipe that is full is waited for"


def test_record_after_a_torn_one_begins_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with stderr() as read:
        sink = Stderr(for_people=False)
        write = os.write
        writes = iter([3])

        def tearing(fd: int, data: bytes) -> int:
            for size in writes:
                return write(fd, data[:size])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("graced.log.sinks.os.write", tearing)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                sink.write(record("torn"))
        monkeypatch.setattr("graced.log.sinks.os.write", write)
        sink.write(record("whole"))
        sink.write(record("next"))
        assert os.read(read, 1000) == b"<6>\n<6>whole\n<6>next\n"


# Sockets.


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


def test_log_of_an_instance_has_its_name(
    datagrams: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "_identifier", sinks.IDENTIFIER)
    sinks.identify("graced@gauge")
    for sink in (Journal(datagrams.getsockname()), Syslog(datagrams.getsockname())):
        sink.write(record("text"))
        sink.close()
    assert fields(datagrams.recv(65536))["SYSLOG_IDENTIFIER"] == "graced@gauge"
    assert re.fullmatch(rb"<\d+>graced@gauge\[\d+\]: text", datagrams.recv(65536))


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


def test_long_values_are_cut(datagrams: socket.socket) -> None:
    sink = Journal(datagrams.getsockname())
    sink.write(Record(events.HANDLER_FAILED, {"client": CLIENT, "reason": "r" * LONG}, "t" * LONG))
    found = fields(datagrams.recv(LONG))
    assert found["GRACED_CLIENT"] == CLIENT
    assert 4000 < len(found["GRACED_REASON"]) < 5000
    assert " [...] " in found["GRACED_REASON"]
    assert 48_000 < len(found["MESSAGE"]) < 50_000
    sink.close()


def test_record_that_does_not_fit_into_a_datagram_is_a_file(datagrams: socket.socket) -> None:
    """A device with a small net.core.wmem_default."""
    sink = Journal(datagrams.getsockname())
    sink._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sink.write(record("x" * LONG))
    data, (fd,), _, _ = socket.recv_fds(datagrams, 65536, 1)
    assert data == b""
    with open(fd, "rb") as file:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        text = fields(os.pread(fd, LONG, 0))["MESSAGE"]
        assert file
    assert seals == fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    assert 48_000 < len(text) < 50_000
    sink.close()


@pytest.mark.parametrize("call", ["memfd_create", "fcntl"])
def test_record_that_cannot_be_a_file_is_cut_short(
    call: str, datagrams: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_arguments: object) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    module = "os" if call == "memfd_create" else "fcntl"
    monkeypatch.setattr(f"graced.log.sinks.{module}.{call}", refused)
    sink = Journal(datagrams.getsockname())
    sink._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sink.write(record("begin" + "x" * LONG + "end", ERROR))
    found = fields(datagrams.recv(65536))
    assert re.fullmatch(r"beginx+\n\[\.\.\.\]\nx+end", found["MESSAGE"])
    assert found["PRIORITY"] == "3"
    assert found["MESSAGE_ID"] == OTHER_MESSAGE_ID
    sink.close()


@pytest.mark.parametrize(("buffer", "limit"), [(0, 8300), (4096, 1024)])
def test_long_line_of_syslog_is_cut(buffer: int, limit: int, datagrams: socket.socket) -> None:
    sink = Syslog(datagrams.getsockname())
    if buffer:
        sink._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    sink.write(record("begin" + "x" * LONG + "end"))
    lines = [datagrams.recv(65536) for _ in range(3)]
    assert all(len(line) <= limit for line in lines)
    assert b" [...] " in lines[0]
    assert lines[1].endswith(b": [...]")
    assert lines[2].endswith(b"xend")
    sink.close()


def test_syslog_gets_one_datagram_per_line(datagrams: socket.socket) -> None:
    sink = Syslog(datagrams.getsockname())
    sink.write(record("two\nlines", ERROR))
    for line in ("two", "lines"):
        assert datagrams.recv(65536).decode() == f"<27>graced[{os.getpid()}]: {line}"
    sink.flush(0)
    sink.close()


def test_syslog_that_listens_for_connections(tmp_path: Path) -> None:
    """As syslog(3) has it: a NUL behind each record; and the daemon is started again."""
    path = tmp_path / "log"

    def listen() -> socket.socket:
        daemon = socket.socket(socket.AF_UNIX)
        daemon.bind(str(path))
        daemon.listen()
        return daemon

    with listen() as daemon:
        sink = Syslog(str(path))
        connection, _ = daemon.accept()
    with connection:
        sink.write(Record(events.STATUS, {"status": "first"}))
        assert connection.recv(1000).endswith(b": first\0")
    path.unlink()
    with listen() as daemon:
        sink.write(Record(events.STATUS, {"status": "second"}))
        connection, _ = daemon.accept()
        with connection:
            assert connection.recv(1000).endswith(b": second\0")
    sink.close()


@pytest.mark.parametrize("removed", [False, True], ids=["dead socket", "no socket"])
@pytest.mark.parametrize("kind", [Journal, Syslog])
def test_records_are_held_while_the_log_daemon_is_stopped(
    kind: type[Journal | Syslog], removed: bool, tmp_path: Path
) -> None:
    """The last of them, in their order; the older ones are lost, and the writer counts them."""
    path = tmp_path / "log"

    def listen() -> socket.socket:
        path.unlink(missing_ok=True)
        daemon = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        daemon.setblocking(False)
        daemon.bind(str(path))
        return daemon

    def write(number: int) -> None:
        sink.write(Record(events.STATUS, {"status": f"number {number}."}))

    with listen() as daemon:
        sink = kind(str(path))
        write(0)
        assert b"number 0." in daemon.recv(1000)
    if removed:
        path.unlink()
    for number in range(1, MAX_HELD + 1):
        write(number)
    with pytest.raises(OSError, match=r"refused|No such file"):
        write(MAX_HELD + 1)
    with listen() as daemon:
        reader = threading.Thread(target=write, args=[MAX_HELD + 2])
        reader.start()
        daemon.settimeout(PATIENCE)
        for number in range(2, MAX_HELD + 3):
            assert b"number %d." % number in daemon.recv(1000)
        reader.join()
    sink.close()
