"""The pidfile: a lock, and the pid of the process that holds the lock."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from graced.errors import AlreadyRunningError, PidFileError
from graced.process.pidfile import PidFile
from support import environment


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "graced.pid"


def test_pidfile_is_locked_written_and_removed(path: Path) -> None:
    lock = PidFile(str(path))
    assert path.read_text() == ""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "others could lock it"
    lock.write()
    assert path.read_text() == f"{os.getpid()}\n"
    with pytest.raises(AlreadyRunningError) as caught:
        PidFile(str(path))
    assert str(caught.value) == f"already running with pid {os.getpid()}: {path} is locked"
    lock.remove()
    assert not path.exists()


def test_locked_pidfile_of_starting_daemon_has_no_pid(path: Path) -> None:
    lock = PidFile(str(path))
    with pytest.raises(AlreadyRunningError, match=f"^already running: {path} is locked$"):
        PidFile(str(path))
    lock.remove()


def test_stale_content_is_overwritten(path: Path) -> None:
    path.write_text("1\n and a lot of text that is longer than any pid")
    lock = PidFile(str(path))
    lock.write()
    assert path.read_text() == f"{os.getpid()}\n"
    lock.remove()


def test_lock_of_killed_holder_is_released(path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from graced.process.pidfile import PidFile\n"
        "PidFile(sys.argv[1]).write()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    holder = subprocess.run([sys.executable, "-c", code, str(path)], env=environment(), check=False)
    assert holder.returncode < 0
    assert path.read_text() != ""
    PidFile(str(path)).remove()


def test_lock_survives_close_of_one_descriptor(path: Path) -> None:
    """As after a fork: the parent closes its descriptor, and the daemon holds the lock."""
    lock = PidFile(str(path))
    child = os.dup(lock.fileno())
    os.close(lock.fileno())
    with pytest.raises(AlreadyRunningError):
        PidFile(str(path))
    os.close(child)
    PidFile(str(path)).remove()


def test_new_file_at_path_is_not_removed(path: Path) -> None:
    lock = PidFile(str(path))
    path.unlink()
    path.write_text("of another program")
    lock.remove()
    assert path.read_text() == "of another program"


def test_removed_pidfile_is_no_error(path: Path) -> None:
    lock = PidFile(str(path))
    path.unlink()
    lock.remove()


def test_pidfile_removed_between_open_and_lock_is_created_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the last holder ends at this moment."""
    import fcntl

    flock = fcntl.flock
    removed: list[int] = []

    def remove_first(fd: int, how: int) -> None:
        if not removed:
            removed.append(fd)
            path.unlink()
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    lock = PidFile(str(path))
    assert removed
    lock.write()
    assert path.read_text() == f"{os.getpid()}\n"
    lock.remove()


def refuse_to_lock(monkeypatch: pytest.MonkeyPatch, first: Callable[[], object]) -> None:
    """Let flock(2) fail, after `first`."""
    import fcntl

    def fail(_fd: int, _how: int) -> None:
        first()
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)


def test_created_file_that_cannot_be_locked_is_removed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_to_lock(monkeypatch, lambda: None)
    with pytest.raises(PidFileError, match="No locks available"):
        PidFile(str(path))
    assert not path.exists()


def test_file_of_another_process_stays_where_the_lock_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace() -> None:
        path.unlink()
        path.write_text("4711\n")

    refuse_to_lock(monkeypatch, replace)
    with pytest.raises(PidFileError, match="No locks available"):
        PidFile(str(path))
    assert path.read_text() == "4711\n"


def test_removed_file_that_cannot_be_locked_is_a_pidfile_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_to_lock(monkeypatch, path.unlink)
    with pytest.raises(PidFileError, match="No locks available"):
        PidFile(str(path))


def test_hard_link_is_refused(path: Path) -> None:
    """The other name could be of any file of this user."""
    path.write_text("")
    os.link(path, path.with_name("other"))
    with pytest.raises(PidFileError, match="it is no plain file"):
        PidFile(str(path))


@pytest.mark.parametrize("kind", ["directory", "link", "fifo", "missing"])
def test_unusable_path_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/dev/null")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path = tmp_path / "missing" / "pid"
    with pytest.raises(PidFileError, match=f"^cannot write pidfile {path}: "):
        PidFile(str(path))


def remove_directory(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()


def replace(path: Path) -> None:
    path.unlink()
    path.touch()


def open_directory(path: Path) -> None:
    path.parent.chmod(0o777)


def add_name(path: Path) -> None:
    os.link(path, path.with_name("other"))


@pytest.mark.parametrize("change", [remove_directory, replace, open_directory, add_name])
def test_pidfile_is_lost_where_a_start_could_not_have_it(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = tmp_path / "run" / "graced.pid"
    path.parent.mkdir()
    lock = PidFile(str(path))
    assert not lock.is_lost()
    change(path)
    assert lock.is_lost()
    lock.remove()


def test_lock_is_taken_over_and_left(path: Path) -> None:
    old = PidFile(str(path))
    new = PidFile(str(path), os.dup(old.fileno()))
    old.write()
    old.leave()
    with pytest.raises(AlreadyRunningError):
        PidFile(str(path))
    assert path.read_text() == f"{os.getpid()}\n"
    new.remove()
    assert not path.exists()


def test_lock_of_another_file_is_not_taken_over(path: Path) -> None:
    old = PidFile(str(path))
    path.unlink()
    with pytest.raises(PidFileError, match="it is another file than before"):
        PidFile(str(path), old.fileno())
    old.leave()
