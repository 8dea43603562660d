"""The fork into the background: the line between command and daemon, and the adoption."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from ast import literal_eval
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest

from graced.errors import HANDED_OVER, ConfigError, StartError
from graced.log.standard_streams import JOURNAL_STREAM_SOCKET
from graced.process import daemonize
from graced.process.daemonize import Parent
from graced.systemd.notify import Notifier
from support import PATIENCE, NotifySocket, environment

# The adoption.


@pytest.fixture
def leader(monkeypatch: pytest.MonkeyPatch) -> int:
    """A session leader that has ended and has been reaped."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    monkeypatch.setattr(os, "getsid", lambda _pid: pid)
    return pid


@pytest.mark.parametrize("number", [errno.ESRCH, errno.EINVAL, errno.ENOSYS, errno.EPERM])
def test_parent_is_polled_where_pidfd_open_fails(
    monkeypatch: pytest.MonkeyPatch, leader: int, number: int
) -> None:
    parents = [leader, leader, 1]
    monkeypatch.setattr(os, "getppid", lambda: parents.pop(0))

    def refuse(pid: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    daemonize._wait_for_adoption()
    assert not parents


def test_reaped_leader_needs_no_wait(monkeypatch: pytest.MonkeyPatch, leader: int) -> None:
    asked: list[int] = []
    monkeypatch.setattr(os, "pidfd_open", asked.append)
    daemonize._wait_for_adoption()
    assert os.getppid() != leader
    assert not asked


def test_living_leader_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    leader = os.fork()
    if leader == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    monkeypatch.setattr(os, "getsid", lambda _pid: leader)
    looks: list[int] = []

    def parent() -> int:
        looks.append(leader)
        if len(looks) == 1:
            os.close(writing)
            return leader
        # The leader has ended: the kernel has an exit status.
        assert os.waitid(os.P_PID, leader, os.WEXITED | os.WNOHANG) is not None
        return 1

    monkeypatch.setattr(os, "getppid", parent)
    try:
        daemonize._wait_for_adoption()
    finally:
        if len(looks) < 2:
            os.kill(leader, signal.SIGKILL)
            os.waitpid(leader, 0)


# The daemon's end of the line.


@pytest.fixture
def line() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The command's end and the daemon's end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(PATIENCE)
    theirs.settimeout(PATIENCE)
    with ours, theirs:
        yield ours, theirs


Line = tuple[socket.socket, socket.socket]


def test_serving_daemon_reports_ok_and_closes_line(line: Line) -> None:
    command, daemon = line
    with Parent(daemon) as parent:
        parent.serving()
    assert command.recv(100) == b"ok"
    assert command.recv(100) == b""


@pytest.mark.parametrize(
    ("error", "report"),
    [
        (ConfigError("wrong key"), b"78 wrong key"),
        (StartError("no process", 75), b"75 no process"),
        (ValueError("unexpected"), b"1 ValueError('unexpected')"),
        (ConfigError("\udcff"), b"78 \\udcff"),
    ],
)
def test_failed_daemon_reports_status_and_reason(
    line: Line, error: Exception, report: bytes
) -> None:
    command, daemon = line
    with pytest.raises(type(error)), Parent(daemon):
        raise error
    assert command.recv(100) == report


def test_failure_after_serving_is_not_reported(line: Line) -> None:
    command, daemon = line
    parent = Parent(daemon)
    parent.serving()
    with pytest.raises(ValueError, match="late"), parent:
        raise ValueError("late")
    assert command.recv(100) == b"ok"
    assert command.recv(100) == b""


def test_long_reason_is_cut(line: Line) -> None:
    command, daemon = line
    Parent(daemon).failed(ConfigError("x" * 100_000))
    assert len(command.recv(100_000)) == daemonize._MAX_MESSAGE


def test_killed_command_does_not_stop_daemon(line: Line) -> None:
    command, daemon = line
    command.close()
    Parent(daemon).serving()


def test_daemon_waits_for_go(line: Line) -> None:
    command, daemon = line
    command.send(b"go")
    Parent(daemon).become_main()
    assert command.recv(100) == b"pid %d" % os.getpid()


def test_daemon_without_command_does_not_serve(line: Line) -> None:
    command, daemon = line
    command.shutdown(socket.SHUT_WR)
    with pytest.raises(StartError, match="the command that started the daemon is gone"):
        Parent(daemon).become_main()


# The command's end of the line.


def forked() -> int:
    """A child that has ended, as the first process that python-daemon forks from."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return pid


@pytest.fixture
def notifier(notify_socket: NotifySocket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notifier]:
    monkeypatch.setenv("NOTIFY_SOCKET", notify_socket.name)
    notifier = Notifier(notify_socket.environment)
    yield notifier
    notifier.close()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process in the place of the daemon, which dies of a signal, also where we ignore it."""
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL);"
        "print(flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        yield process
        process.kill()


@contextmanager
def blocked(signum: signal.Signals) -> Iterator[None]:
    """Block a signal, as `graced.__main__` does."""
    handler = signal.getsignal(signum)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signum])
    try:
        yield
    finally:
        signal.signal(signum, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def wait(command: socket.socket, child: int, notifier: Notifier) -> None:
    command.settimeout(None)
    daemonize._wait(command, child, notifier)


def test_command_returns_when_daemon_serves(
    line: Line, notifier: Notifier, notify_socket: NotifySocket
) -> None:
    command, daemon = line
    daemon.send(b"pid 4711")
    daemon.send(b"ok")
    wait(command, forked(), notifier)
    assert daemon.recv(100) == b"go"
    assert notify_socket.texts == ["MAINPID=4711", "BARRIER=1"]


def test_command_fails_like_daemon(line: Line) -> None:
    command, daemon = line
    daemon.send(b"78 wrong key in the file")
    daemon.shutdown(socket.SHUT_WR)
    with pytest.raises(StartError, match=r"^wrong key in the file$") as caught:
        wait(command, 0, Notifier({}))
    assert caught.value.status == 78


def test_command_fails_when_daemon_dies(line: Line, notifier: Notifier) -> None:
    command, daemon = line
    daemon.send(b"pid 4711")
    daemon.shutdown(socket.SHUT_WR)
    with pytest.raises(StartError, match=r"^the daemon died before it served$"):
        wait(command, forked(), notifier)


@pytest.mark.parametrize(
    ("last", "reason"), [((), "the daemon died before it served"), ((b"1 reason",), "reason")]
)
def test_command_fails_when_daemon_dies_before_go(
    last: Sequence[bytes], reason: str, line: Line, notifier: Notifier
) -> None:
    command, daemon = line
    for message in (b"pid 4711", *last):
        daemon.send(message)
    daemon.close()
    with pytest.raises(StartError, match=f"^{reason}$"):
        wait(command, forked(), notifier)


def test_signal_to_command_is_passed_on(
    line: Line, notifier: Notifier, sleeper: subprocess.Popen[bytes]
) -> None:
    command, daemon = line

    def follow() -> None:
        """As the daemon: report the pid, die of the signal, and take the line along."""
        daemon.send(b"pid %d" % sleeper.pid)
        assert daemon.recv(100) == b"go"
        os.kill(os.getpid(), signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            sleeper.wait(PATIENCE)
        daemon.shutdown(socket.SHUT_WR)

    following = threading.Thread(target=follow)
    following.start()
    with pytest.raises(StartError, match="died"):
        wait(command, forked(), notifier)
    following.join()
    assert sleeper.returncode == -signal.SIGTERM


def test_early_signal_is_passed_on_when_pid_is_known(
    line: Line, notifier: Notifier, sleeper: subprocess.Popen[bytes]
) -> None:
    command, daemon = line

    def follow() -> None:
        daemon.send(b"pid %d" % sleeper.pid)
        with suppress(subprocess.TimeoutExpired):
            sleeper.wait(PATIENCE)
        daemon.send(b"ok")

    following = threading.Thread(target=follow)
    with blocked(signal.SIGHUP):
        signal.raise_signal(signal.SIGHUP)
        following.start()
        wait(command, forked(), notifier)
        following.join()
    assert sleeper.returncode == -signal.SIGHUP


def test_restart_gives_up_start_and_waits_for_daemon(line: Line, notifier: Notifier) -> None:
    command, daemon = line
    read: list[bytes] = []

    def follow() -> None:
        # In the place of the daemon: the command closes its direction instead of sending "go".
        daemon.send(b"pid 4711")
        read.append(daemon.recv(100))
        daemon.shutdown(socket.SHUT_WR)

    following = threading.Thread(target=follow)
    with blocked(signal.SIGUSR2):
        signal.raise_signal(signal.SIGUSR2)
        following.start()
        with pytest.raises(StartError, match=r"^restarted before it served$") as caught:
            wait(command, forked(), notifier)
        following.join()
    assert caught.value.status == HANDED_OVER
    assert read == [b""]


# The fork.


def test_fork_that_fails_is_a_start_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", fail)
    with pytest.raises(StartError, match=r"^cannot fork: Resource temporarily unavailable$"):
        daemonize.daemonize(Notifier({}), [], keep_stderr=False)


def test_open_descriptors_are_listed() -> None:
    before = daemonize.open_descriptors()
    read, write = os.pipe()
    try:
        assert daemonize.open_descriptors() == before | {read, write}
    finally:
        os.close(read)
        os.close(write)
    assert daemonize.open_descriptors() == before


DAEMON = """if True:
    import os, sys
    from graced.process.daemonize import daemonize
    from graced.systemd.notify import Notifier
    kept = int(sys.argv[1])
    parent = daemonize(Notifier({}), [kept], keep_stderr=False)
    if parent is None:
        print("command", flush=True)
        sys.exit()
    with parent:
        if len(sys.argv) > 2:
            raise ValueError(sys.argv[2])
        links = [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)]
        facts = [os.getsid(0) != os.getpid(), os.getcwd(), *links]
        os.write(kept, repr(facts).encode())
        parent.serving()
"""


def run_daemon(*arguments: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run `DAEMON`; return the end of the command, and the output of the daemon."""
    read, write = os.pipe()
    with os.fdopen(read) as output:
        try:
            command = subprocess.run(
                [sys.executable, "-c", DAEMON, str(write), *arguments],
                env=environment(),
                pass_fds=[write],
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
        finally:
            os.close(write)
        return command, output.read()


def test_daemon_has_session_and_streams_of_its_own() -> None:
    command, output = run_daemon()
    assert (command.returncode, command.stdout, command.stderr) == (0, "command\n", "")
    led, directory, stdin, stdout, stderr = literal_eval(output)
    assert (led, directory, stdin, stdout) == (True, "/", "/dev/null", stderr)
    if os.path.exists(JOURNAL_STREAM_SOCKET):
        assert stdout.startswith("socket:")
    else:
        assert stdout == "/dev/null"


def test_command_raises_failure_of_daemon() -> None:
    command, output = run_daemon("as expected")
    assert command.returncode == 1
    assert "StartError: ValueError('as expected')" in command.stderr
    assert output == ""
