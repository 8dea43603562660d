"""A pidfile with any content, or any other file in its place.

The exit status is a documented one, and no file is overwritten.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from robustness.forge import Forge, Outcome
from robustness.fuzzing import OK, PIDFILE, RUNNING, check, check_served, some
from support import run_graced


@some
@given(st.binary(max_size=100), st.sampled_from([0o644, 0o600, 0o400, 0o000, 0o666]))
@example(b"", 0o644)
@example(b"1\n", 0o644)
@example(b"99999999999999999999999\n", 0o644)
@example(b"-1\n", 0o644)
@example(b"\xff\0\n", 0o644)
def test_stale_pidfiles(forge: Forge, place: Path, content: bytes, mode: int) -> None:
    path = place / "left.pid"
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    path.write_bytes(content)
    path.chmod(mode)
    outcome = forge.run("-l", "127.0.0.1:0", "-p", str(path))
    check_served(outcome, PIDFILE)
    assert path.exists() == (outcome.status != OK)
    if outcome.status != OK:
        path.chmod(0o600)
        assert path.read_bytes() == content


@some
@given(st.binary(max_size=100))
@example(b"\xd9\xa3\n")
@example(b"12\x1b[2J")
@example(b"1\n2\n")
def test_pidfile_of_running_daemon(forge: Forge, place: Path, content: bytes) -> None:
    import fcntl

    path = place / "running.pid"
    path.write_bytes(content)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        check(forge.run("-l", "127.0.0.1:0", "-p", str(path)), RUNNING)
    assert path.read_bytes() == content


def _victim(path: Path) -> Path:
    victim = path.with_name("victim")
    victim.write_bytes(b"precious\n")
    return victim


def _link(path: Path) -> None:
    path.symlink_to(_victim(path))


def _hard_link(path: Path) -> None:
    os.link(_victim(path), path)


def _dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("new"))


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def _open_directory(path: Path) -> None:
    path.parent.chmod(0o777)


def _sticky_directory(path: Path) -> None:
    path.parent.chmod(0o1777)


def _no_directory(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_bytes(b"")


def _foreign(path: Path) -> None:
    """Of another user, or, where we may not make one, not for us to write."""
    path.write_bytes(b"1\n")
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
        path.chmod(0o666)
    else:
        path.chmod(0o444)


ATTACKS: dict[str, Callable[[Path], None]] = {
    "link": _link,
    "hard link": _hard_link,
    "dangling link": _dangling_link,
    "circular link": lambda path: path.symlink_to(path),
    "directory": Path.mkdir,
    "fifo": os.mkfifo,
    "socket": _socket,
    "file of another user": _foreign,
    "in a directory of everybody": _open_directory,
    "in a sticky directory of everybody": _sticky_directory,
    "in no directory": lambda path: path.parent.rmdir(),
    "in a file": _no_directory,
}


@pytest.mark.parametrize("daemon", [False, True], ids=["foreground", "daemon"])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=list(ATTACKS))
def test_other_files_in_place_of_pidfile(
    tmp_path: Path, attack: Callable[[Path], None], daemon: bool
) -> None:
    path = tmp_path / "run" / "graced.pid"
    path.parent.mkdir()
    attack(path)
    before = _contents(tmp_path)
    options = ["--daemon"] if daemon else []
    run = run_graced("-l", "127.0.0.1:0", "-p", str(path), *options)
    check(Outcome(run.returncode, run.stdout, run.stderr), PIDFILE)
    assert str(path) in run.stderr
    assert _contents(tmp_path) == before, "something was followed or overwritten"


def test_pidfile_of_many_letters(forge: Forge, tmp_path: Path) -> None:
    check(forge.run("-l", "127.0.0.1:0", "-p", str(tmp_path / ("x" * 300))), PIDFILE)
    check(forge.run("-l", "127.0.0.1:0", "-p", str(tmp_path / "no\nwhere" / "x")), PIDFILE)


def _contents(directory: Path) -> dict[str, tuple[str, int, bytes]]:
    """Everything below, with its kind, mode and content."""
    found = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        if path.is_symlink():
            content = os.fsencode(os.readlink(path))
        found[str(path)] = (stat.filemode(status.st_mode), status.st_uid, content)
    return found
