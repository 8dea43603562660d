"""The file of the control socket, and the way from there to a control thread."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from control.scene import Scene
from graced.app import configuration, control_socket
from graced.control import endpoint as endpoint_module
from graced.control.endpoint import Endpoint
from graced.control.thread import ControlThread
from graced.log import events
from support import PATIENCE
from support.control import Operator


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control"


@pytest.fixture
def endpoint(scene: Scene, path: Path) -> Iterator[Endpoint]:
    found = Endpoint(str(path))
    found.serve(scene.subject)
    yield found
    found.close()
    if found._thread:
        found._thread.join(PATIENCE)


class Removals:
    """The names of the files that are unlinked meanwhile, as a context manager."""

    def __init__(self, path: Path) -> None:
        self.names: list[str] = []
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Removals:
        unlink = os.unlink

        def noted(path: str) -> None:
            self.names.append(os.path.basename(path))
            unlink(path)

        self._patch.setattr(os, "unlink", noted)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._patch.undo()


def failures(scene: Scene) -> list[str]:
    return [
        str(each.fields["reason"])
        for each in scene.log.records
        if each.event is events.CONTROL_FAILED
    ]


def test_file_is_for_user_and_group(endpoint: Endpoint, path: Path) -> None:
    mode = path.stat().st_mode
    assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o660)
    assert os.listdir(path.parent) == ["control"]


def test_peers_are_served_one_after_the_other(endpoint: Endpoint, path: Path) -> None:
    for _ in range(3):
        with Operator.of(path.parent) as operator:
            endpoint.look()
            assert operator.status()["state"] == "serving"
            thread = endpoint._thread
            assert thread
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_no_peer_no_thread(endpoint: Endpoint) -> None:
    endpoint.look()
    assert endpoint._thread is None


def test_leftover_of_a_process_that_was_killed_is_replaced(scene: Scene, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    found = Endpoint(str(path))
    found.serve(scene.subject)
    with Operator.of(path.parent) as operator:
        found.look()
        assert operator.status()["state"] == "serving"
    found.close()
    assert os.listdir(path.parent) == []


def test_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        Endpoint(str(path))
    assert path.read_text() == "mine"
    assert os.listdir(path.parent) == ["control"]


def bound_name(endpoint: Endpoint) -> str:
    """The name that ss(8) shows."""
    name = socket.socket(fileno=os.dup(endpoint.fileno()))
    with name:
        return str(name.getsockname())


def test_kernel_knows_the_socket_by_its_path(path: Path) -> None:
    for _ in range(2):
        found = Endpoint(str(path))
        assert bound_name(found) == str(path)
        found.disown_path()
        found.close()


def test_path_is_never_missing_while_another_process_serves(path: Path) -> None:
    """Links are watched by the kernel: the path is replaced, and not removed and made anew."""
    first = Endpoint(str(path))
    (path.parent / "control.new").touch()
    with Removals(path) as removals:
        second = Endpoint(str(path))
    assert removals.names == ["control.new"]
    first.close()
    assert os.listdir(path.parent) == ["control"]
    second.close()


def test_file_of_the_next_process_stays(scene: Scene, path: Path) -> None:
    first = Endpoint(str(path))
    second = Endpoint(str(path))
    first.close()
    second.serve(scene.subject)
    with Operator.of(path.parent) as operator:
        second.look()
        assert operator.status()["state"] == "serving"
    second.close()
    assert not path.exists()


def test_file_may_be_left_to_the_next_process(path: Path) -> None:
    found = Endpoint(str(path))
    found.disown_path()
    found.close()
    assert path.exists()


@pytest.mark.parametrize("directory", ["missing", "x" * 120])
def test_socket_that_cannot_be_bound_is_one_record(
    scene: Scene, tmp_path: Path, directory: str
) -> None:
    path = str(tmp_path / directory / "control")
    control = control_socket.ControlSocket({"RUNTIME_DIRECTORY": os.path.dirname(path)}, 7)
    with ExitStack() as belongings:
        control.bind(configuration.load("/dev/null", {}), [], belongings)
    control.disown_path()
    (record,) = [each for each in scene.log.records if each.event is events.CONTROL_ABSENT]
    assert record.fields["path"] == path
    assert record.fields["reason"]


def test_no_descriptor_for_a_peer_is_one_record_and_a_pause(
    scene: Scene, endpoint: Endpoint, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def accept() -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with Operator.of(path.parent) as operator:
        with monkeypatch.context() as patch:
            patch.setattr(endpoint, "_sock", type("Full", (), {"accept": staticmethod(accept)}))
            endpoint.look()
        assert failures(scene) == ["cannot accept a peer: Too many open files"]
        assert endpoint.due < float("inf")
        endpoint.look()
        assert endpoint.due == float("inf")
        assert operator.status()["state"] == "serving"


def test_no_thread_for_a_peer_is_one_record(
    scene: Scene, endpoint: Endpoint, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Operator.of(path.parent) as operator:
        with monkeypatch.context() as patch:
            patch.setattr(ControlThread, "start", start)
            endpoint.look()
        assert failures(scene) == ["cannot serve a peer: RuntimeError: can't start new thread"]
        with pytest.raises((EOFError, ConnectionResetError)):
            operator.reply()
    with Operator.of(path.parent) as operator:
        endpoint.look()
        assert operator.status()["state"] == "serving"


def test_end_waits_for_no_peer(
    endpoint: Endpoint, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_module, "STOP_TIMEOUT", PATIENCE)
    with Operator.of(path.parent) as operator:
        endpoint.look()
        assert operator.status()
        endpoint.close()
        with pytest.raises((EOFError, ConnectionResetError)):
            operator.reply()
    assert endpoint._thread
    assert not endpoint._thread.is_alive()


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({}, ""),
        ({"RUNTIME_DIRECTORY": ""}, ""),
        ({"RUNTIME_DIRECTORY": "/run/graced"}, "/run/graced/control"),
        ({"RUNTIME_DIRECTORY": "/run/graced@a:/run/b"}, "/run/graced@a/control"),
        ({"RUNTIME_DIRECTORY": "/run/graced", "SYSTEMD_EXEC_PID": "7"}, "/run/graced/control"),
        # What a service manager has said to a terminal that we were started in.
        ({"RUNTIME_DIRECTORY": "/run/terminal", "SYSTEMD_EXEC_PID": "6"}, ""),
    ],
)
def test_path(environ: dict[str, str], path: str) -> None:
    assert control_socket.path_in(environ, 7) == path


def test_path_is_taken_back_from_another_process(endpoint: Endpoint, path: Path) -> None:
    watched = endpoint.fileno()
    endpoint.disown_path()
    other = Endpoint(str(path))
    other.disown_path()
    other.close()
    endpoint.bind_again()
    # Who watches the descriptor need not know.
    assert endpoint.fileno() == watched
    with Operator.of(path.parent) as operator:
        endpoint.look()
        assert operator.status()["state"] == "serving"
