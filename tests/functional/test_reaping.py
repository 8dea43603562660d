"""A forked start below a parent that reaps at once, as PID 1 of most devices does.

The session leader that python-daemon forks the daemon from is gone then before the daemon can look
at it, and pidfd_open(2) fails: with ESRCH, on kernels up to 6.12 with EINVAL, and in containers
that forbid the call with ENOSYS or EPERM.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from signal import SIGTERM

import pytest

from robustness.strace import STRACE
from support import Client, Log, environment, launch, wait_for_end, without_a_log

REAPER = str(Path(__file__).with_name("reaper.py"))
ERRORS = ["EINVAL", "ESRCH", "ENOSYS", "EPERM"]
STARTS = 5


def _start(directory: Path, *before: str) -> None:
    """Start, echo and stop."""
    file, path, log_file = directory / "pid", directory / "socket", directory / "log"
    command = [*launch(), "--daemon", "--config", os.devnull, "--pid-file", str(file)]
    with log_file.open("wb") as output:
        reaper = subprocess.Popen(
            [sys.executable, REAPER, *before, *command, "--listen", f"unix:{path}"],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=output,
        )
    log = Log.of_file(log_file)
    try:
        pid = int(log.wait_for(r"serving on .* with pid (\d+)$")[1])
    finally:
        log.close()
        reaper.communicate()
    with Client.connect(f"unix:{path}") as client:
        client.echo(b"hello")
    os.kill(pid, SIGTERM)
    assert wait_for_end(pid) == 0


def test_daemon_starts_below_parent_that_reaps_at_once(tmp_path: Path) -> None:
    for _ in range(STARTS):
        _start(tmp_path)


@pytest.mark.needs("strace")
@pytest.mark.parametrize("error", ERRORS)
def test_daemon_starts_where_pidfd_open_fails(error: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    faults = ["-e", "trace=pidfd_open", "-e", f"inject=pidfd_open:error={error}"]
    # Each process lingers at its end: the leader is still there when the daemon looks at it.
    faults += ["-e", "trace=pidfd_open,exit_group"]
    faults += ["-e", "inject=exit_group:delay_enter=500000"]
    _start(tmp_path, STRACE, "-D", "-f", "-o", str(trace), *faults)
    assert "pidfd_open" in trace.read_text()


def test_daemon_starts_where_its_caller_ignores_its_children(tmp_path: Path) -> None:
    """The command then cannot wait for the process that it forks."""
    ignoring = "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)"
    file, path = tmp_path / "pid", tmp_path / "socket"
    command = [*launch(ignoring), "--daemon", "--config", os.devnull, "--pid-file", str(file)]
    run = subprocess.run(
        [*command, "--listen", f"unix:{path}"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, without_a_log())
    pid = int(file.read_text())
    os.kill(pid, SIGTERM)
    assert wait_for_end(pid) == 0
