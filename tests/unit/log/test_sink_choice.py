"""Which sink the log has: that of a terminal, a file, journald or syslog."""

from __future__ import annotations

import os
import pty
import re
import socket
from pathlib import Path

import pytest

from graced.log import sinks
from graced.log.sinks import Journal, Stderr, Syslog
from log.records import record, stderr
from support import PATIENCE


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


@pytest.mark.parametrize("name", ["JOURNAL_SOCKET", "SYSLOG_SOCKET"])
def test_log_socket_that_comes_later_gets_what_was_held(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container or a device whose log daemon starts after graced."""
    monkeypatch.setattr(sinks, "JOURNAL_SOCKET", str(tmp_path / "missing"))
    monkeypatch.setattr(sinks, "SYSLOG_SOCKET", str(tmp_path / "missing"))
    monkeypatch.setattr(sinks, "MAX_HELD", 2)
    monkeypatch.setattr(sinks, name, str(tmp_path / "late"))
    (tmp_path / "late").write_text("")
    sink = sinks.sink_for(detached=True)
    for number in range(2):
        sink.write(record(str(number)))
    with pytest.raises(FileNotFoundError):
        sink.write(record("2"))
    sink.flush(0.0)
    (tmp_path / "late").unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as late:
        late.bind(str(tmp_path / "late"))
        late.settimeout(PATIENCE)
        for text in ("3", "4"):
            sink.write(record(text))
        found = [late.recv(65536).decode() for _ in range(4)]
        expected = r"MESSAGE=(\d)\n" if name == "JOURNAL_SOCKET" else r"graced\[\d+\]: (\d)"
        assert "".join(re.findall(expected, "".join(found))) == "1234"
    assert isinstance(sink, sinks.Unfound)
    found_sink = sink._found
    assert isinstance(found_sink, Journal | Syslog)
    found_sink.close()
