"""Each system call of a start, made to fail: a documented exit status, one line that says why."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from robustness.handlers import HERE
from robustness.strace import FORKS, Fault, run_traced
from support import run_graced

pytestmark = pytest.mark.needs("strace")

UNEXPECTED = r"OSError\("


class Start(NamedTuple):
    """A start that fails."""

    fault: Fault
    status: int
    says: str

    def __str__(self) -> str:
        return str(self.fault)


IN_EITHER = [
    Start(Fault("socket", "error=EMFILE"), 69, "cannot listen on .*: Too many open files"),
    Start(Fault("socket", "error=ENOBUFS"), 69, "cannot listen on "),
    Start(Fault("bind", "error=EADDRINUSE"), 69, "cannot listen on .*: Address already in use"),
    Start(Fault("bind", "error=EACCES"), 69, "cannot listen on .*: Permission denied"),
    Start(Fault("bind", "error=ENOMEM"), 69, "cannot listen on "),
    Start(Fault("listen", "error=EADDRINUSE"), 69, "cannot listen on .*: Address already in use"),
    Start(Fault("setsockopt", "error=ENOMEM"), 69, "cannot listen on "),
    Start(Fault("flock", "error=ENOLCK"), 73, "cannot write pidfile .*: No locks available"),
    Start(Fault("ftruncate", "error=EIO"), 73, "cannot write pidfile .*: Input/output error"),
    Start(Fault("pwrite64", "error=ENOSPC"), 73, "cannot write pidfile .*: No space left"),
    Start(Fault("pwrite64", "error=EDQUOT"), 73, "cannot write pidfile .*: Disk quota exceeded"),
    Start(Fault("openat", "error=EROFS", path="{pid}"), 73, "cannot write pidfile .*: Read-only"),
    Start(Fault("openat", "error=ENFILE", path="{pid}"), 73, "cannot write pidfile .*: Too many"),
    Start(Fault("openat", "error=EACCES", path="{config}"), 78, "graced.toml: Permission denied"),
    Start(Fault("read", "error=EIO", path="{config}"), 78, "graced.toml: Input/output error"),
    Start(Fault("read", "error=EISDIR", path="{config}"), 78, "graced.toml: Is a directory"),
    Start(Fault("eventfd2", "error=EMFILE"), 1, "cannot wait for clients, .*Too many"),
    Start(Fault("epoll_ctl", "error=ENOMEM"), 1, "cannot wait for clients, .*allocate"),
    Start(Fault("pipe2", "error=EMFILE"), 1, "cannot catch signals, pipe.2.: Too many"),
]
FOREGROUND = [
    Start(Fault(FORKS, "error=EAGAIN"), 1, "cannot start a thread"),
    Start(Fault(FORKS, "error=EAGAIN", "2"), 1, "cannot start a thread"),
    Start(Fault("epoll_wait", "error=EBADF"), 1, UNEXPECTED),
    Start(Fault("poll", "error=ENOMEM"), 1, UNEXPECTED),
]
FORKED = [
    Start(Fault(FORKS, "error=EAGAIN"), 1, "cannot fork: Resource temporarily unavailable"),
    Start(Fault(FORKS, "error=ENOMEM"), 1, "cannot fork: Cannot allocate memory"),
    Start(Fault("setsid", "error=EPERM"), 1, "Operation not permitted"),
    Start(Fault("socketpair", "error=EMFILE"), 1, "cannot become a daemon: .*Too many"),
    Start(Fault("sendto", "error=ENOBUFS", "1"), 1, ""),
    Start(Fault("chdir", "error=EACCES"), 1, "Permission denied"),
    Start(Fault("dup2,dup3", "error=EBADF"), 1, "Bad file descriptor"),
]


def _run(start: Start, directory: Path, *options: str) -> None:
    run_directory = directory / "run"
    run_directory.mkdir()
    config = directory / "graced.toml"
    config.write_text("[server]\nbacklog = 5\n")
    pid_file = run_directory / "graced.pid"
    path = start.fault.path.format(pid=pid_file, config=config)
    result, hits = run_traced(
        start.fault._replace(path=path),
        *("--config", str(config), "--pid-file", str(pid_file), "--listen", "127.0.0.1:0"),
        *("--listen", f"unix:{run_directory}/socket"),
        *options,
    )
    assert hits
    assert result.returncode == start.status, result
    said = [line for line in result.stderr.splitlines() if not line.startswith("<6>")]
    assert re.search(start.says, said[0]), result
    if start.says == UNEXPECTED and (len(said) > 1 or not options):
        assert said[1].endswith("Traceback (most recent call last):"), result
    else:
        # That of a daemon is in its log, which is not here any more.
        assert len(said) == 1, result
        assert said[0].startswith("graced: ")
    assert list(run_directory.iterdir()) == []


@pytest.mark.parametrize("start", IN_EITHER + FOREGROUND, ids=str)
def test_failed_call_at_start_in_foreground(start: Start, tmp_path: Path) -> None:
    _run(start, tmp_path)


@pytest.mark.parametrize("start", IN_EITHER + FORKED, ids=str)
def test_failed_call_at_start_of_daemon(start: Start, tmp_path: Path) -> None:
    _run(start, tmp_path, "--daemon")


@pytest.mark.parametrize("number", [1, 2])
def test_fork_in_middle_of_detachment(number: int, tmp_path: Path) -> None:
    """The daemon forks twice more to get rid of the terminal; strace counts for each process."""
    run = run_graced(
        *("--daemon", "--pid-file", str(tmp_path / "graced.pid"), "--listen", "127.0.0.1:0"),
        *("--handler", f"{HERE}:ForkFails{number}"),
    )
    assert run.returncode == 1
    assert re.fullmatch("graced: .*Resource temporarily unavailable.*\n", run.stderr), run
    assert list(tmp_path.iterdir()) == []
