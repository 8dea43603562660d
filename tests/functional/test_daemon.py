"""Forked into the background: when the command returns, what it leaves, and how it fails."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import (
    PATIENCE,
    Client,
    Daemon,
    Graced,
    Log,
    NotifySocket,
    environment,
    launch,
    run_graced,
    settled,
    status_field,
    wait_for_end,
    without_a_log,
)
from support.forbid import Forbidden
from support.process import LEFT_TO_THE_KERNEL

LOGS = ("/run/systemd/journal/socket", "/dev/log")
"""Where a daemon that cannot keep its stderr logs to."""


@contextmanager
def in_background(
    tmp_path: Path, *options: str, before: str = ""
) -> Iterator[tuple[subprocess.CompletedProcess[str], int, str]]:
    """What the command said, the pid of the daemon, and where it serves: without a log file."""
    file, path = tmp_path / "pid", tmp_path / "socket"
    arguments = ["--daemon", "--config", "/dev/null", "--pid-file", str(file), *options]
    found = run_graced(*arguments, "--listen", f"unix:{path}", before=before)
    assert found.returncode == 0, found.stderr
    pid = int(file.read_text())
    try:
        yield found, pid, f"unix:{path}"
    finally:
        os.kill(pid, signal.SIGTERM)
        status = wait_for_end(pid)
    assert status == 0


def stat_fields(pid: int) -> list[str]:
    """Of /proc/PID/stat, from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def test_command_returns_when_connect_succeeds() -> None:
    for _ in range(5):
        with Daemon() as graced, graced.connect() as client:
            client.echo(b"hello")


def test_daemon_stops_as_in_foreground(handler: str, address: str) -> None:
    with (
        Daemon("--handler", handler, "--grace", "30", listen=address) as graced,
        graced.served() as silent,
        graced.connect() as talking,
    ):
        talking.echo(b"hello")
        graced.signal(signal.SIGTERM)
        for client in (silent, talking):
            client.expect_farewell_alone()
            client.echo(b"yes")
            client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (2, 0)
        assert not graced.pid_file.exists()


def test_daemon_inherits_only_umask(tmp_path: Path) -> None:
    before = "import os\nos.umask(0o002)\nos.chdir('/tmp')"
    with in_background(tmp_path, before=before) as (_, pid, address):
        with Client.connect(address) as client:
            client.echo(b"hello")
        _, parent, _, session, terminal, *_ = stat_fields(pid)
        # These tests adopt orphans; else the parent were 1.
        assert int(parent) == os.getpid()
        assert int(session) not in {os.getsid(0), 0}
        assert terminal == "0"
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert status_field(pid, "Umask") == "0022"
        assert not int(status_field(pid, "SigBlk"), 16)


def test_private_umask_stays_private(tmp_path: Path) -> None:
    before = "import os\nos.umask(0o077)"
    with in_background(tmp_path, before=before) as (_, pid, _):
        assert status_field(pid, "Umask") == "0077"


def descriptors(pid: int) -> Counter[str]:
    """What a process has open, without the numbers in it."""
    found: Counter[str] = Counter()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        found[re.sub(r":\[\d+\]", "", os.readlink(path))] += 1
    return found


def expected(tmp_path: Path) -> Counter[str]:
    """The standard streams; a listener, perhaps the log; what the main and the I/O thread sleep
    on, with the two ends of the signals' pipe; the pidfile."""
    return Counter(
        {
            "/dev/null": 3,
            "pipe": 2,
            "socket": 1 + any(Path(path).is_socket() for path in LOGS),
            "anon_inode:[eventpoll]": 1,
            "anon_inode:[eventfd]": 2,
            str(tmp_path / "pid"): 1,
        }
    )


def test_daemon_has_no_descriptor_that_command_inherited(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    try:
        file = tmp_path / "pid"
        found = run_graced(
            *("--daemon", "--config", "/dev/null", "--pid-file", str(file)),
            *("--listen", f"unix:{tmp_path}/socket"),
            pass_fds=[writing],
        )
        assert found.returncode == 0, found.stderr
        pid = int(file.read_text())
        try:
            # It may still have its line to the command for a moment.
            assert settled(pid)
            assert descriptors(pid) == expected(tmp_path)
        finally:
            os.kill(pid, signal.SIGTERM)
            assert wait_for_end(pid) == 0
    finally:
        os.close(reading)
        os.close(writing)


def test_terminal_reads_pid_and_log_and_can_be_closed(tmp_path: Path) -> None:
    """Nor can be, later: the daemon does not have it."""
    file, path = tmp_path / "pid", tmp_path / "socket"
    ours, theirs = os.openpty()
    own_terminal = "import fcntl, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)"
    command = subprocess.Popen(
        [
            *launch(own_terminal),
            *("--daemon", "--config", "/dev/null", "--pid-file", str(file)),
            *("--listen", f"unix:{path}"),
        ],
        env=environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    terminal = Log.of_pipe(ours)
    assert command.wait(PATIENCE) == 0
    # Comes to an end when nobody has the terminal any more, although the daemon still runs.
    terminal.close()
    pid = int(file.read_text())
    try:
        assert re.fullmatch(
            rf"graced: serving on unix:{path} with pid {pid}, log: "
            r"(journalctl -t graced|syslog|none \(no journal, no syslog\))\s*",
            str(terminal),
        )
        with Client.connect(f"unix:{path}") as client:
            client.echo(b"hello")
    finally:
        os.kill(pid, signal.SIGTERM)
        assert wait_for_end(pid) == 0


def test_output_of_command_ends(tmp_path: Path) -> None:
    """As in ``output=$(graced -d)``."""
    with in_background(tmp_path) as (found, _, _):
        assert (found.stdout, found.stderr) == ("", without_a_log())


@pytest.mark.parametrize("closed", ["2", "1 2", "0 1 2"])
def test_standard_streams_may_be_closed(closed: str, tmp_path: Path) -> None:
    before = "import os\n" + "".join(f"os.close({fd})\n" for fd in closed.split())
    with (
        in_background(tmp_path, before=before) as (found, _, address),
        Client.connect(address) as client,
    ):
        client.echo(b"hello")
        assert (found.stdout, found.stderr) == ("", "")


def test_log_of_daemon_goes_to_stderr_if_stderr_is_file(handler: str) -> None:
    with Daemon("--handler", handler) as graced:
        with graced.connect() as client:
            client.echo(b"hello")
        graced.log.wait_for("^<6>closing connection from .*, 5 bytes echoed")
        assert graced.log.wait_for(r"with pid (\d+)$")[1] == str(graced.pid)


def test_pidfile_is_named_from_where_command_was_typed(tmp_path: Path) -> None:
    found = run_graced(
        *("--daemon", "--config", "/dev/null", "--pid-file", "here.pid"),
        *("--listen", f"unix:{tmp_path}/socket"),
        cwd=tmp_path,
    )
    assert found.returncode == 0, found.stderr
    pid = int((tmp_path / "here.pid").read_text())
    os.kill(pid, signal.SIGTERM)
    assert wait_for_end(pid) == 0
    assert not (tmp_path / "here.pid").exists()


# Failures: the reason appears on the terminal of the command.


def failing(tmp_path: Path, *options: str, before: str = "") -> subprocess.CompletedProcess[str]:
    found = run_graced(
        *("--daemon", "--config", "/dev/null", "--pid-file", str(tmp_path / "pid"), *options),
        before=before,
    )
    assert not found.stdout
    return found


def test_port_in_use_is_69(tmp_path: Path) -> None:
    with Graced() as graced:
        (address,) = graced.addresses
        found = failing(tmp_path, "--listen", address)
    assert found.returncode == 69
    assert found.stderr == f"graced: cannot listen on {address}: Address already in use\n"
    assert not (tmp_path / "pid").exists()


def test_second_daemon_is_75(tmp_path: Path) -> None:
    with in_background(tmp_path) as (_, pid, _):
        found = failing(tmp_path, "--listen", "127.0.0.1:0")
        assert found.returncode == 75
        assert found.stderr == f"graced: already running with pid {pid}: {tmp_path}/pid is locked\n"


def test_second_daemon_right_after_first(tmp_path: Path) -> None:
    for _ in range(3):
        with in_background(tmp_path) as (_, _, address), Client.connect(address) as client:
            client.echo(b"hello")


def test_full_disk_after_fork_is_73(tmp_path: Path) -> None:
    """The pid can be written by the daemon alone."""
    before = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
    found = failing(tmp_path, "--listen", "127.0.0.1:0", before=before)
    assert found.returncode == 73
    assert found.stderr == f"graced: cannot write pidfile {tmp_path}/pid: File too large\n"
    assert not (tmp_path / "pid").exists()


def test_daemon_killed_before_serving(tmp_path: Path) -> None:
    handler = ("--handler", "support.faulty:KilledHandler")
    found = failing(tmp_path, "--listen", "127.0.0.1:0", *handler)
    assert found.returncode == 1
    assert found.stderr == "graced: the daemon died before it served\n"


def test_failure_after_fork_is_one_line_in_file(tmp_path: Path) -> None:
    """The file is the log of the daemon, and the stderr of the command that reports the failure."""
    log = tmp_path / "log"
    no_thread = Forbidden("clone3", "EPERM").code
    with log.open("wb") as file:
        status = subprocess.run(
            [
                *launch(no_thread),
                *("--daemon", "--config", "/dev/null", "--pid-file", str(tmp_path / "pid")),
                *("--listen", "127.0.0.1:0"),
            ],
            env=environment(LEFT_TO_THE_KERNEL),
            stderr=file,
            timeout=PATIENCE,
            check=False,
        ).returncode
    assert status == 1
    assert log.read_text() == "graced: cannot start a thread: can't start new thread\n"


def test_unexpected_failure_after_fork(tmp_path: Path) -> None:
    """The terminal of the command gets the reason, the log the traceback."""
    log = tmp_path / "log"
    arguments = ["--daemon", "--config", "/dev/null", "--pid-file", str(tmp_path / "pid")]
    handler = ["--handler", "support.faulty:FailingStartHandler"]
    with log.open("wb") as file:
        status = subprocess.run(
            [*launch(), *arguments, *handler, "--listen", "127.0.0.1:0"],
            env=environment(),
            stderr=file,
            timeout=PATIENCE,
            check=False,
        ).returncode
    lines = log.read_text().splitlines()
    assert status == 1
    assert [line for line in lines if line.startswith("graced: ")] == [
        "graced: LookupError('injected')"
    ]
    assert "<2>    Traceback (most recent call last):" in lines
    assert "<2>    LookupError: injected" in lines
    assert not (tmp_path / "pid").exists()
    found = failing(tmp_path, "--listen", "127.0.0.1:0", *handler)
    assert found.returncode == 1
    assert found.stderr == "graced: LookupError('injected')\n"


@pytest.mark.parametrize("options", [("--listen", "nonsense"), ("--no-such-option",)])
def test_wrong_command_line_is_2(options: tuple[str, ...], tmp_path: Path) -> None:
    assert failing(tmp_path, *options).returncode == 2


def test_missing_directory_for_pidfile_is_73(tmp_path: Path) -> None:
    found = run_graced(
        *("--daemon", "--config", "/dev/null", "--listen", "127.0.0.1:0"),
        *("--pid-file", str(tmp_path / "missing" / "pid")),
    )
    assert found.returncode == 73
    assert found.stderr.startswith(f"graced: cannot write pidfile {tmp_path}/missing/pid: ")


def test_signal_to_command_stops_daemon(tmp_path: Path, notify_socket: NotifySocket) -> None:
    notify_socket.hold_barriers = True
    command = subprocess.Popen(
        [
            *launch(),
            *("--daemon", "--config", "/dev/null", "--pid-file", str(tmp_path / "pid")),
            *("--listen", f"unix:{tmp_path}/socket"),
        ],
        env=environment(notify_socket.environment),
    )
    pid = int(notify_socket.wait_for("MAINPID=").text.removeprefix("MAINPID="))
    command.terminate()
    notify_socket.release()
    assert command.wait(PATIENCE) == 0
    assert wait_for_end(pid) == 0
    notify_socket.wait_for("STOPPING=1")
    assert not (tmp_path / "pid").exists()


def test_daemon_ends_when_its_command_is_killed(
    tmp_path: Path, notify_socket: NotifySocket
) -> None:
    """The new pid would be unknown: the handover has not taken place."""
    notify_socket.hold_barriers = True
    command = subprocess.Popen(
        [
            *launch(),
            *("--daemon", "--config", "/dev/null", "--pid-file", str(tmp_path / "pid")),
            *("--listen", f"unix:{tmp_path}/socket"),
        ],
        env=environment(notify_socket.environment),
        stderr=subprocess.DEVNULL,
    )
    pid = int(notify_socket.wait_for("MAINPID=").text.removeprefix("MAINPID="))
    command.kill()
    command.wait(PATIENCE)
    assert wait_for_end(pid) == 1
    notify_socket.release()
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(OSError, match=r"refused|No such"):
        sock.connect(str(tmp_path / "socket"))
