"""From a command line to an exit status, in this process."""

from __future__ import annotations

import io
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest

from graced.app import cli, refusal, service, settings
from graced.errors import ConfigError, FailedError, ListenError
from graced.log import event, sinks, writer
from support import PATIENCE


class Exit(BaseException):
    """In place of the end of the process."""


@pytest.fixture(autouse=True)
def _no_exit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def leave(status: int) -> NoReturn:
        raise Exit(status)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    destination = event.destination
    yield
    event.destination = destination


def run(*arguments: str) -> int:
    with pytest.raises(Exit) as caught:
        cli.main(arguments)
    (status,) = caught.value.args
    assert isinstance(status, int)
    return status


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """How the service was run, which does nothing."""
    calls: list[dict[str, Any]] = []

    def record(settings: Any, **options: Any) -> int:
        calls.append({"settings": settings, **options})
        return 79

    monkeypatch.setattr(service, "run", record)
    return calls


@pytest.mark.parametrize(
    ("arguments", "pid_file"),
    [
        ([], None),
        (["--pid-file", "/x"], "/x"),
        (["--daemon"], "/configured"),
        (["--daemon", "--pid-file", "/x"], "/x"),
    ],
)
def test_service_is_run(
    arguments: list[str], pid_file: str | None, started: list[dict[str, Any]], tmp_path: Path
) -> None:
    config = tmp_path / "graced.toml"
    config.write_text("[daemon]\npid_file = '/configured'\n")
    assert run("--config", str(config), "--grace", "7", *arguments) == 79
    (call,) = started
    assert call["settings"].grace_period == 7
    assert call["pid_file"] == pid_file
    assert call["daemon"] == ("--daemon" in arguments)
    assert call["launch"].arguments == ["--config", str(config), "--grace", "7", *arguments]


def test_configuration_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--print-config", "-c/dev/null", "-g7") == 0
    out, err = capsys.readouterr()
    assert "grace_period = 7  # --grace\n" in out
    assert err == ""


def test_configuration_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address = f"unix:{tmp_path}/socket"
    assert run("-t", "-c/dev/null", "-l127.0.0.1:0", "-l", address) == 0
    out, err = capsys.readouterr()
    assert out == f"graced: configuration is valid, would serve 127.0.0.1:0, {address}\n"
    assert err == ""


@pytest.mark.parametrize("option", ["--check-config", "--print-config"])
def test_neither_starts_the_service(option: str, started: list[dict[str, Any]]) -> None:
    run(option, "-c/dev/null", "-l127.0.0.1:0")
    assert started == []


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_are_no_failure(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--daemon", option) == 0
    assert "graced" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ListenError("cannot listen"), 69, "graced: cannot listen\n"),
        (ConfigError("a\nb\x1b[2J"), 78, "graced: a\\nb\\x1b[2J\n"),
        (FailedError("is in the log"), 1, ""),
        (ValueError("a bug"), 1, "graced: failed: ValueError('a bug')\n"),
    ],
)
def test_failure_is_one_line_and_a_status(
    error: Exception,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr(service, "run", fail)
    assert run("-c/dev/null") == status
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize(
    ("arguments", "farewell"),
    [(["--nonsense"], b"SHUTDOWN"), (["-c{config}"], b"BYE"), (["-c{config}", "-g-1"], b"BYE")],
)
def test_refusal_tells_inherited_clients(
    arguments: list[str],
    farewell: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[bytes] = []
    monkeypatch.setattr(refusal, "refuse", lambda settings: told.append(settings.farewell))
    monkeypatch.setattr(settings, "CONFIG_FILE", str(tmp_path / "none"))
    config = tmp_path / "graced.toml"
    config.write_text("[shutdown]\nfarewell = 'BYE'\ngrace_period = -1\n")
    assert run(*(argument.format(config=config) for argument in arguments)) in {2, 78}
    assert told == [farewell]


def test_output_that_cannot_be_written_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w", encoding="ascii") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run("--print-config", "-c/dev/null") == 1
        monkeypatch.undo()
        with pytest.raises(OSError, match="No space left"):
            full.close()


@pytest.mark.parametrize("closed", [False, True])
def test_reason_goes_to_syslog_where_stderr_cannot_be_written(
    closed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog,
        open("/dev/full", "w", encoding="utf-8") as full,
    ):
        syslog.bind(str(tmp_path / "log"))
        syslog.settimeout(PATIENCE)
        monkeypatch.setattr(sinks, "JOURNAL_SOCKET", str(tmp_path / "missing"))
        monkeypatch.setattr(sinks, "SYSLOG_SOCKET", str(tmp_path / "log"))
        monkeypatch.setattr(sys, "stderr", None if closed else full)
        assert run("--listen", "nonsense") == 2
        assert b"]: cannot start: " in syslog.recv(1000)
        assert capsys.readouterr().out == ""
        monkeypatch.undo()
        with suppress(OSError):
            full.close()
    destination = event.destination
    assert isinstance(destination, writer.Log)
    assert isinstance(destination.sink, sinks.Syslog)
    destination.sink.close()


class Odd(io.StringIO):
    def flush(self) -> None:
        raise LookupError


@pytest.mark.parametrize("closed", [True, False])
def test_stdout_that_a_handler_has_closed_or_replaced_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    stream = io.StringIO() if closed else Odd()
    if closed:
        stream.close()
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(Exit, match=r"^0$"):
        cli._leave(0)
