"""The pidfile: a lock that says who runs."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from graced.errors import AlreadyRunningError, PidFileError
from graced.process.pidfile import PidFile
from support import environment


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "graced.pid"


def test_it_is_locked_written_and_removed(path: Path) -> None:
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


def test_one_that_starts_has_no_pid_yet(path: Path) -> None:
    lock = PidFile(str(path))
    with pytest.raises(AlreadyRunningError, match=f"^already running: {path} is locked$"):
        PidFile(str(path))
    lock.remove()


def test_what_it_said_before_does_not_matter(path: Path) -> None:
    path.write_text("1\n and a lot of text that is longer than any pid")
    lock = PidFile(str(path))
    lock.write()
    assert path.read_text() == f"{os.getpid()}\n"
    lock.remove()


def test_a_holder_that_is_killed_holds_it_no_more(path: Path) -> None:
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


def test_the_lock_goes_with_a_fork(path: Path) -> None:
    """To the daemon; the parent gives up its descriptor, and the lock holds."""
    lock = PidFile(str(path))
    child = os.dup(lock.fileno())
    os.close(lock.fileno())
    with pytest.raises(AlreadyRunningError):
        PidFile(str(path))
    os.close(child)
    PidFile(str(path)).remove()


def test_what_took_its_place_is_left_alone(path: Path) -> None:
    lock = PidFile(str(path))
    path.unlink()
    path.write_text("of somebody else")
    lock.remove()
    assert path.read_text() == "of somebody else"


def test_one_that_has_gone_is_no_matter(path: Path) -> None:
    lock = PidFile(str(path))
    path.unlink()
    lock.remove()


def test_one_that_is_removed_between_opening_and_locking_is_made_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the holder ends at this very moment."""
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


def test_two_names_of_a_file_are_one_too_many(path: Path) -> None:
    """A hard link could be to anything of ours."""
    path.write_text("")
    os.link(path, path.with_name("other"))
    with pytest.raises(PidFileError, match="it is no plain file"):
        PidFile(str(path))


@pytest.mark.parametrize("kind", ["directory", "link", "fifo", "missing"])
def test_what_is_no_place_for_a_pid(kind: str, tmp_path: Path) -> None:
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
