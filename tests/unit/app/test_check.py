"""The refusals of a check, and the notes on things that could not be checked."""

from __future__ import annotations

import errno
import os
import resource
import socket
from pathlib import Path
from typing import Any

import pytest

import graced
from graced.app import check, configuration, occupancy, unit
from graced.app.check import Check, Subject
from graced.app.instance import named
from graced.app.settings import Settings
from graced.app.unit import Unit
from graced.errors import AlreadyRunningError, ConfigError, ListenError, PidFileError

MANY = 1_000_000


def service(**changes: Any) -> Unit:
    """A unit under the user of the tests."""
    properties: dict[str, Any] = {
        "name": "graced.service",
        "pid": 0,
        "user": "",
        "group": "",
        "groups": [],
        "descriptors": MANY,
        "tasks": 0,
        "runtime_directories": [],
        "binds_low_ports": False,
        "private_network": False,
        "sockets": "",
        "options": ["--daemon"],
    }
    return Unit(**{**properties, **changes})


def settings(listen: str | list[str] = "127.0.0.1:0", **others: Any) -> Settings:
    found = configuration.load("/dev/null", {"server.listen": ("--listen", listen)})
    vars(found).update(others)
    return found


def notes(subject: Subject, values: Settings, pid_file: str | None = None) -> list[str]:
    """Check a start that is not refused."""
    checking = Check(subject, {})
    assert checking.run(lambda: values, lambda _: pid_file) is values
    return checking.notes


@pytest.fixture
def taken() -> Any:
    """A port in use, as an address."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield f"127.0.0.1:{sock.getsockname()[1]}"


# Limits.


def test_sound_start_is_not_refused() -> None:
    assert notes(Subject(descriptors=MANY), settings()) == []


def test_limit_of_descriptors_is_that_of_the_unit() -> None:
    values = settings(max_clients=100_000)
    with pytest.raises(ConfigError, match=r"max_clients = 100000 needs \d+ descriptors.* is 4608$"):
        notes(Subject(unit=service(), descriptors=4608), values)
    assert notes(Subject(unit=service(), descriptors=MANY), values) == []
    assert notes(Subject(descriptors=resource.RLIM_INFINITY), values) == []


def test_higher_limit_of_the_own_unit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon was started under a lower limit than the next start."""
    values = settings(max_clients=10_000)
    monkeypatch.setattr(unit, "own_name", lambda: "some.service")
    monkeypatch.setattr(unit, "find", lambda name: service(name=name, descriptors=MANY))
    assert notes(Subject(descriptors=4608), values) == []
    monkeypatch.setattr(unit, "find", lambda name: None)
    with pytest.raises(ConfigError, match=r"is 4608$"):
        notes(Subject(descriptors=4608), values)


def test_lack_of_tasks_is_a_note() -> None:
    values = settings(handler="echo-threaded", max_handler_threads=1000)
    (note,) = notes(Subject(unit=service(tasks=320), descriptors=MANY), values)
    assert "max_handler_threads = 1000, but the limit of tasks (TasksMax=) is 320" in note


@pytest.mark.parametrize("source", ["x = (", "raise ValueError('cut off')", "import no_such_thing"])
def test_package_that_cannot_be_imported_is_named(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "__init__.py").write_text(source)
    monkeypatch.setattr(graced, "__path__", [*graced.__path__, str(tmp_path)])
    with pytest.raises(ConfigError, match=r"^graced\.damaged cannot be imported: "):
        check.import_everything()


def test_module_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "graced.log.bridge", None)
    with pytest.raises(ConfigError, match=r"^graced\.log\.bridge cannot be imported: "):
        notes(Subject(descriptors=MANY), settings())


# Addresses.


def test_address_in_use_by_the_service_is_free(taken: str) -> None:
    ours = occupancy.sockets_of(os.getpid())
    subject = Subject(unit=service(), descriptors=MANY, ours=ours, knows_service=True)
    assert notes(subject, settings(taken)) == []


def test_address_in_use_by_another_is_refused(taken: str) -> None:
    subject = Subject(unit=service(), descriptors=MANY, ours=frozenset({1}), knows_service=True)
    with pytest.raises(ListenError, match=f"^cannot listen on {taken}: Address already in use$"):
        notes(subject, settings(taken))


def test_address_in_use_is_a_note_where_the_service_is_not_known(taken: str) -> None:
    (note,) = notes(Subject(descriptors=MANY), settings(taken))
    assert note.startswith(f"{taken}: it is in use at present")


def test_start_that_goes_on_is_not_refused(taken: str, tmp_path: Path) -> None:
    """An address and a pidfile that it cannot get now are notes."""
    subject = Subject(descriptors=MANY, ours=frozenset({1}), knows_service=True, goes_on=True)
    values = settings([taken, f"unix:{tmp_path}/none/socket"])
    assert notes(subject, values, f"{tmp_path}/none/pid") == [
        f"cannot write pidfile {tmp_path}/none/pid: No such file or directory",
        f"cannot listen on {taken}: Address already in use",
        f"cannot listen on unix:{tmp_path}/none/socket: No such file or directory",
    ]
    with pytest.raises(ConfigError, match="overlap"):
        notes(subject, settings([taken, taken]))


def test_name_in_use_in_both_families_is_one_note() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("::1", one.getsockname()[1]), family=socket.AF_INET6),
    ):
        assert (
            len(notes(Subject(descriptors=MANY), settings(f"localhost:{one.getsockname()[1]}")))
            == 1
        )


def test_address_that_is_not_here_is_a_note() -> None:
    assert notes(Subject(descriptors=MANY), settings("192.0.2.1:0")) == [
        "192.0.2.1:0: this machine does not have the address at present"
    ]


def test_low_port_needs_a_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(occupancy, "try_to_bind", deny)
    with pytest.raises(ListenError, match=r"^cannot listen on \*:7: .*graced\.socket"):
        notes(Subject(unit=service(), descriptors=MANY), settings("*:7"))
    capable = service(binds_low_ports=True)
    assert notes(Subject(unit=capable, descriptors=MANY), settings("*:7")) == []


@pytest.mark.parametrize(
    "listen",
    [
        ["*:9999", "127.0.0.1:9999"],
        ["localhost:9999", "localhost:9999"],
        ["localhost:9999", "[::1]:9999"],
        ["unix:/run/a", "unix:/run/a"],
    ],
    ids=str,
)
def test_overlapping_addresses_are_refused(listen: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^server\.listen: .* overlap"):
        notes(Subject(descriptors=MANY), settings(listen))


def test_no_address_is_bound_if_sockets_are_passed(taken: str) -> None:
    subject = Subject(descriptors=MANY, gets_listeners="graced.socket", knows_service=True)
    assert notes(subject, settings([taken, taken, "*:7"])) == []


def test_network_of_its_own_is_a_note() -> None:
    subject = Subject(unit=service(private_network=True), descriptors=MANY)
    assert notes(subject, settings("192.0.2.1:7")) == [
        "addresses: graced.service has a network of its own"
    ]


# Paths of Unix sockets.


def test_stale_path_is_free(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
    assert notes(Subject(descriptors=MANY), settings(f"unix:{tmp_path}/socket")) == []


def test_path_in_use_by_another_is_refused(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/socket"
    subject = Subject(descriptors=MANY, knows_service=True)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
        sock.listen()
        with pytest.raises(ListenError, match=r"Address already in use$"):
            notes(subject, settings(address))
        subject.ours = occupancy.sockets_of(os.getpid())
        assert notes(subject, settings(address)) == []


def test_path_of_the_same_name_elsewhere_is_not_in_use(tmp_path: Path) -> None:
    """The kernel lists a socket in a container, or whose path has been removed, by that name."""
    path = str(tmp_path / "socket")
    subject = Subject(descriptors=MANY, knows_service=True)
    with socket.socket(socket.AF_UNIX) as elsewhere, socket.socket(socket.AF_UNIX) as ours:
        elsewhere.bind(path)
        elsewhere.listen()
        os.unlink(path)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        assert notes(subject, settings(f"unix:{path}")) == []
        os.unlink(path)
        ours.bind(path)
        ours.listen()
        subject.ours = frozenset({os.fstat(ours.fileno()).st_ino})
        assert notes(subject, settings(f"unix:{path}")) == []


def test_plain_file_at_a_path_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ListenError, match=r"Address already in use$"):
        notes(Subject(descriptors=MANY), settings(f"unix:{tmp_path}/file"))
    assert (tmp_path / "file").read_text() == "precious"


def test_directory_that_systemd_makes_may_be_missing() -> None:
    values = settings("unix:/run/graced-nowhere/socket")
    with pytest.raises(ListenError, match=r"No such file or directory$"):
        notes(Subject(unit=service(), descriptors=MANY), values)
    made = service(runtime_directories=["/run/graced-nowhere"])
    assert notes(Subject(unit=made, descriptors=MANY), values) == []


def test_directory_that_is_read_only_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so the kernel's answer is replaced."""
    monkeypatch.setattr(check, "_may", lambda path, mode: False)
    values = settings("unix:/run/socket")
    with pytest.raises(ListenError, match=r"Permission denied$"):
        notes(Subject(descriptors=MANY), values)
    with pytest.raises(PidFileError, match=r"Permission denied$"):
        notes(Subject(descriptors=MANY), settings(), "/run/pid")


# The pidfile.


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("missing", "No such file or directory"),
        ("public", "everybody may write to "),
        ("link", "it is no plain file"),
        ("two names", "it is no plain file"),
        ("directory", "it is no plain file"),
    ],
)
def test_pidfile_that_cannot_be_written_is_refused(kind: str, why: str, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    if kind == "missing":
        file = tmp_path / "missing" / "pid"
    elif kind == "public":
        tmp_path.chmod(0o777)
    elif kind == "link":
        file.symlink_to("precious")
    elif kind == "two names":
        file.touch()
        (tmp_path / "other").hardlink_to(file)
    else:
        file.mkdir()
    with pytest.raises(PidFileError, match=f"^cannot write pidfile {file}: {why}"):
        notes(Subject(descriptors=MANY), settings(), str(file))


def test_pidfile_is_neither_made_nor_changed(tmp_path: Path) -> None:
    assert notes(Subject(descriptors=MANY), settings(), str(tmp_path / "pid")) == []
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "pid").write_text("7\n")
    assert notes(Subject(descriptors=MANY), settings(), str(tmp_path / "pid")) == []
    assert (tmp_path / "pid").read_text() == "7\n"


def test_pidfile_locked_by_another_daemon_is_refused(tmp_path: Path) -> None:
    import fcntl

    file = tmp_path / "pid"
    with file.open("w") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        with pytest.raises(AlreadyRunningError, match=r"is locked$"):
            notes(Subject(unit=service(), descriptors=MANY), settings(), str(file))
        running = service(pid=os.getpid())
        assert notes(Subject(unit=running, descriptors=MANY), settings(), str(file)) == []


# For whom.


def test_other_user_is_a_note(tmp_path: Path) -> None:
    subject = Subject(unit=service(user="graced"), descriptors=MANY, is_like_us=False)
    (note,) = notes(subject, settings())
    assert (
        note
        == "what graced, the user of graced.service, may read and write: only root can check that"
    )


def test_options_of_the_unit_are_a_note() -> None:
    subject = Subject(unit=service(options=["--daemon", "--grace", "60"]), descriptors=MANY)
    assert notes(subject, settings()) == ["options that graced.service adds: --grace 60"]


def test_instance_is_no_option_that_somebody_has_added() -> None:
    instance = service(name="graced@gauge.service", options=["--daemon", "--instance", "gauge"])
    assert notes(Subject(unit=instance, descriptors=MANY), settings()) == []


def test_unit_of_an_instance_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit, "find", lambda name, _: service(name=name))
    assert check.subject(named("gauge")).unit.name == "graced@gauge.service"  # type: ignore[union-attr]
    assert check.subject().unit.name == "graced.service"  # type: ignore[union-attr]


def test_without_a_unit_the_command_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit, "find", lambda *_: None)
    found = check.subject()
    assert found.unit is None
    assert found.descriptors == resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert found.is_like_us
    assert not found.knows_service


def test_unit_of_an_unknown_user_is_not_like_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit, "find", lambda *_: service(user="no-such-user", pid=os.getpid()))
    found = check.subject()
    assert not found.is_like_us
    assert found.ours == occupancy.sockets_of(os.getpid())
    assert found.descriptors == MANY


def test_check_says_that_systemctl_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It judges the start of the caller, and not that of the service."""
    (tmp_path / "systemctl").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(unit, "_BOOTED", str(tmp_path))
    (note,) = notes(check.subject(), settings())
    assert note.endswith("systemctl does not answer")
