"""The claims of a start, also of a start that is refused."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from graced import server
from graced.app import assembly, claims, configuration, handler_path, refusal, service, terminal
from graced.app.launch import Launch
from graced.app.service import Service
from graced.app.settings import PID_FILE, Settings
from graced.errors import AlreadyRunningError, ConfigError, ListenError, PidFileError, StartError
from graced.handover import fd_bundle
from graced.handover.fd_bundle import FdBundle
from graced.handover.fdstore import LISTENERS, MIRRORED
from graced.log import bridge, event, events, sinks
from graced.log.event import INFO
from graced.log.writer import Log
from graced.process import limits, pidfile
from graced.systemd import activation
from support import FAREWELL, PATIENCE


class Silence:
    """A log that keeps the records."""

    def __init__(self) -> None:
        self.records: list[Any] = []

    def write(self, record: Any) -> None:
        self.records.append(record)

    def flush(self, timeout: float) -> None:
        pass


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    log = Log(Silence(), INFO)
    monkeypatch.setattr(event, "destination", log)
    return log


@pytest.fixture
def belongings() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def settings(listen: str = "127.0.0.1:0", **others: Any) -> Settings:
    found = configuration.load("/dev/null", {"server.listen": ("--listen", listen)})
    vars(found).update(others)
    return found


def make(
    values: Settings, log: Log, belongings: ExitStack, pid_file: Path | None = None
) -> Service:
    launch = Launch(program=[], arguments=[], environment={}, directory="/", descriptors=0)
    return Service(values, str(pid_file) if pid_file else None, log, belongings, launch)


@pytest.fixture
def pass_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that passes descriptors to the service, as a service manager does."""
    given: list[tuple[int, str]] = []

    def take(environ: object, pid: int) -> list[tuple[int, str]]:
        found = given[:]
        given.clear()
        return found

    def pass_on(fd: int, name: str) -> None:
        given.append((os.dup(fd), name))

    monkeypatch.setattr(activation, "passed", take)
    yield pass_on
    for fd, _ in given:
        os.close(fd)


@pytest.fixture
def client(pass_on: Any) -> Iterator[socket.socket]:
    """A client of the last process."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), PATIENCE) as theirs,
    ):
        with server.accept()[0] as ours:
            bundle = FdBundle()
            assert bundle.put([ours.fileno()])
        pass_on(bundle.receiver.fileno(), MIRRORED)
        bundle.close()
        yield theirs


def heard(client: socket.socket) -> bytes:
    data = b""
    while more := client.recv(64):
        data += more
    return data


# Claims.


def test_claims_are_given_up_at_the_end(log: Log, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with ExitStack() as belongings:
        started = make(settings(f"unix:{path}"), log, belongings, tmp_path / "pid")
        started.claim()
        assert {each.name for each in tmp_path.iterdir()} == {"socket", "pid"}
        with socket.socket(socket.AF_UNIX) as someone:
            someone.connect(str(path))
    assert list(tmp_path.iterdir()) == []


def test_refused_claim_leaves_nothing_behind(log: Log, tmp_path: Path) -> None:
    with ExitStack() as belongings:
        started = make(settings("unix:/nonexistent/socket"), log, belongings, tmp_path / "pid")
        with pytest.raises(ListenError):
            started.claim()
    assert list(tmp_path.iterdir()) == []


def test_second_instance_is_refused(log: Log, belongings: ExitStack, tmp_path: Path) -> None:
    make(settings(), log, belongings, tmp_path / "pid").claim()
    with pytest.raises(AlreadyRunningError):
        make(settings(), log, belongings, tmp_path / "pid").claim()


def test_overlapping_addresses_are_refused(log: Log, belongings: ExitStack) -> None:
    values = settings()
    values.listen = (*settings("*:7").listen, *settings("127.0.0.1:7").listen)
    with pytest.raises(ConfigError, match="overlap"):
        make(values, log, belongings).claim()


def test_inherited_listener_is_used(pass_on: Any, log: Log, belongings: ExitStack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as last:
        pass_on(last.fileno(), LISTENERS)
        port = last.getsockname()[1]
        started = make(settings(f"127.0.0.1:{port}"), log, belongings)
        started.claim()
        (found,) = started._claims.listeners
        assert found.sock.getsockname() == last.getsockname()


def test_lack_of_threads_is_logged(
    log: Log, belongings: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "max_tasks", lambda: 10)
    make(settings(handler="echo-threaded"), log, belongings).claim()
    (record,) = log.sink.records  # type: ignore[attr-defined]
    assert record.event is events.LIMITS


# Refusals.


def test_refused_claim_tells_inherited_clients(
    client: socket.socket, log: Log, belongings: ExitStack
) -> None:
    started = make(settings("unix:/nonexistent/socket"), log, belongings)
    with pytest.raises(ListenError):
        started.claim()
    started.turn_away()
    assert heard(client) == FAREWELL


@pytest.mark.parametrize("in_store", [True, False])
def test_failed_start_tells_clients_that_the_next_would_not_find(
    in_store: bool,
    client: socket.socket,
    log: Log,
    belongings: ExitStack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SO_PEEK_OFF may be missing or forbidden, and the system short of threads."""
    if not in_store:
        monkeypatch.setattr(fd_bundle, "_SO_PEEK_OFF", -1)
    started = make(settings(), log, belongings)
    started.claim()
    started.turn_away_unstored()
    if in_store:
        client.settimeout(0.0)
        with pytest.raises(BlockingIOError):
            client.recv(100)
        client.settimeout(PATIENCE)
        started.turn_away()
    assert heard(client) == FAREWELL


def test_inherited_is_said_when_the_clients_are_served(
    client: socket.socket, log: Log, belongings: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: object) -> None:
        raise StartError("cannot start a thread: can't start new thread")

    def build(*arguments: Any) -> tuple[server.Server, None]:
        built, _ = assembly.build(*arguments)
        belongings.callback(built.close)
        return built, None

    monkeypatch.setattr(server, "start_thread", refuse)
    monkeypatch.setattr(service, "build", build)
    started = make(settings(), log, belongings)
    started.claim()
    belongings.callback(log.stop)
    with pytest.raises(StartError):
        started.serve()
    started.turn_away()
    log.stop()
    assert log.sink.records == []  # type: ignore[attr-defined]
    assert heard(client) == FAREWELL


def test_own_farewell_of_the_handler_is_told(
    client: socket.socket, log: Log, belongings: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = SimpleNamespace(name="mine:Mine", farewell=b"221 Bye\r\n", streams=False)
    handler.asynchronous = ""
    for function in ("find", "prepare"):
        monkeypatch.setattr(handler_path, function, lambda *_: handler)
    # `logging` is left as the other tests expect it.
    monkeypatch.setattr(bridge, "install", lambda _log: None)
    started = make(settings("unix:/nonexistent/socket", handler="some:Thing"), log, belongings)
    with pytest.raises(ListenError):
        started.claim()
    started.turn_away()
    assert heard(client) == b"221 Bye\r\n"


def test_refusal_before_the_settings_tells_inherited_clients(
    client: socket.socket, log: Log
) -> None:
    refusal.refuse(settings())
    assert heard(client) == FAREWELL


def test_handler_that_cannot_be_imported_has_no_words(client: socket.socket, log: Log) -> None:
    refusal.refuse(settings(handler="no_such_module:Handler"))
    assert heard(client) == b""


def test_refusal_without_clients_says_nothing(pass_on: Any, log: Log) -> None:
    refusal.refuse(settings())
    assert log.sink.records == []  # type: ignore[attr-defined]


# Words.


def test_pidfile_of_the_service_hints_at_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, _locked: int) -> None:
        raise PidFileError(f"cannot write pidfile {path}: Permission denied")

    monkeypatch.setattr(pidfile, "PidFile", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PidFileError, match=r"denied; name another with --pid-file$"):
        claims._lock(PID_FILE)
    with pytest.raises(PidFileError, match=r"denied$"):
        claims._lock("/elsewhere")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(PidFileError, match=r"denied$"):
        claims._lock(PID_FILE)


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        (sinks.Journal, "journalctl -t graced"),
        (sinks.Syslog, "syslog"),
        (sinks.Stderr, "none ("),
    ],
)
def test_place_of_the_log_is_named(
    kind: type[Any], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "sink_for", lambda *, detached: object.__new__(kind))
    assert terminal._place_of_log(keep_stderr=False).startswith(place)


def test_log_is_named_where_proc_is_not_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_path: str) -> str:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "readlink", missing)
    assert terminal._place_of_log(keep_stderr=True) == "stderr"
