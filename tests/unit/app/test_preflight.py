"""The check of the next start: the daemon and the child."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from graced.app import child, preflight
from graced.app.launch import Launch
from graced.app.preflight import Preflight
from graced.process import limits
from support import PATIENCE, wait_for_end


def launch(code: str, **changes: Any) -> Launch:
    """A launch of a Python program in place of graced."""
    properties: dict[str, Any] = {
        "program": [sys.executable, "-I", "-c", code],
        "arguments": ["--grace", "7"],
        "environment": {"PATH": "/usr/bin:/bin", "NOTIFY_SOCKET": "/run/x", "KEPT": "1"},
        "directory": os.getcwd(),
        "descriptors": 4608,
    }
    return Launch(**{**properties, **changes})


def outcome(of: Launch) -> str:
    """The reason, after the end of the child."""
    with Preflight(of, gets_listeners=False) as attempt:
        poll = select.poll()
        poll.register(attempt, select.POLLIN)
        assert poll.poll(PATIENCE * 1000)
        assert not attempt.running
        return attempt.reason


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("pass", ""),
        ("print('noise')", ""),
        ("import sys; sys.exit('graced: a reason')", "a reason"),
        ("import sys; print('noise'); sys.exit('graced: a reason')", "a reason"),
        ("import sys; sys.exit(7)", "its check ended with status 7"),
        ("import os; os.kill(os.getpid(), 11)", "its check was killed by signal 11"),
        ("raise ValueError('of a traceback')", "ValueError: of a traceback"),
        ("import sys; sys.exit('x' * 10**6)", "x" * 500),
        ("import sys; sys.stderr.buffer.write(b'\\xff'); sys.exit(1)", "\ufffd"),
    ],
)
def test_reason_is_the_last_line(code: str, reason: str) -> None:
    assert outcome(launch(code)) == reason


@pytest.mark.parametrize(("code", "reason"), [("pass", ""), ("import sys; sys.exit('no')", "no")])
def test_ignored_sigchld_hides_no_outcome(code: str, reason: str) -> None:
    """Ignored by the caller of graced, or by a handler that starts programs."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert outcome(launch(code)) == reason
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_command_is_the_same_with_one_option_more(tmp_path: Path) -> None:
    code = (
        f"import os, sys; open({str(tmp_path / 'seen')!r}, 'w').write("
        "repr((sys.argv[1:], dict(os.environ), os.getcwd())))"
    )
    assert outcome(launch(code, directory=str(tmp_path))) == ""
    arguments, environment, directory = eval((tmp_path / "seen").read_text())
    assert arguments == ["--check-config", "--grace", "7"]
    assert environment["KEPT"] == "1"
    assert "NOTIFY_SOCKET" not in environment
    assert environment[preflight.VARIABLE] == (
        f"pid={os.getpid()} descriptors=4608 gets_listeners=0 goes_on=0"
    )
    assert directory == str(tmp_path)


def test_child_gets_no_descriptor_of_ours() -> None:
    code = (
        "import os, sys; fds = map(os.readlink, (f'/proc/self/fd/{n}' for n in range(20)"
        " if os.path.lexists(f'/proc/self/fd/{n}'))); sys.exit(' '.join(fds))"
    )
    with socket.create_server(("127.0.0.1", 0)) as sock:
        links = outcome(launch(code))
        assert "/dev/null" in links
        assert f"socket:[{os.fstat(sock.fileno()).st_ino}]" not in links


def test_signals_are_as_for_a_new_process() -> None:
    """The child has neither the signal mask of its parent nor the ignored signals."""
    code = (
        "import signal, sys; SIG = signal.Signals;"
        "sys.exit(f'{signal.pthread_sigmask(0, [])} {signal.getsignal(SIG.SIGUSR2)!r}')"
    )
    old = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        assert outcome(launch(code)) == "set() <Handlers.SIG_DFL: 0>"
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def test_program_that_is_gone_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        Preflight(launch("", program=["/nonexistent/python3"]), gets_listeners=False)


def test_child_and_its_children_are_killed_at_the_end() -> None:
    code = (
        "import subprocess, sys; subprocess.Popen(['sleep', '1000']);"
        "print('ready', flush=True); import signal; signal.pause()"
    )
    with Preflight(launch(code), gets_listeners=False) as attempt:
        assert attempt.running
        pid = attempt._pid
        poll = select.poll()
        poll.register(attempt, select.POLLIN)
        children = Path(f"/proc/{pid}/task/{pid}/children")
        while not (found := children.read_text().split()):
            assert not poll.poll(10)
        assert attempt.running
    assert wait_for_end(int(found[0])) == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_child_is_watched_where_pidfd_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(pid: int) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "pidfd_open", deny)
    with Preflight(launch("pass"), gets_listeners=False) as attempt:
        assert attempt.fileno() == -1
        os.waitid(os.P_PID, attempt._pid, os.WEXITED | os.WNOWAIT)
        assert not attempt.running
        assert attempt.reason == ""


STARVES = """
import os
os.sched_setaffinity(0, {processor})
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
while True:
    pass
"""


def test_child_without_a_processor_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others use the processor all the time; what waits for it does not hang."""
    monkeypatch.setattr(child, "TIMEOUT", 1.0)
    # More than is left to SCHED_IDLE beside a program that is as nice as can be.
    monkeypatch.setattr(child, "_LEAST_SHARE", 0.5)
    processor = {min(os.sched_getaffinity(0))}
    with Preflight(launch(STARVES.format(processor=processor)), gets_listeners=False) as attempt:
        while os.sched_getscheduler(attempt._pid) != os.SCHED_IDLE:
            assert attempt.running
        other = os.posix_spawn(sys.executable, [sys.executable, "-c", "while True: pass"], {})
        try:
            os.sched_setaffinity(other, processor)
            deadline = time.monotonic() + PATIENCE
            attempt.advances()
            # The kernel counts a wait when it is over.  Waits are short where the tests are nice.
            while select.poll().poll(1000 * child.TIMEOUT) or not attempt.advances():
                assert time.monotonic() < deadline
            with monkeypatch.context() as kernel:
                # Without CONFIG_SCHED_INFO.
                kernel.setattr(attempt, "_waited_for_processor", lambda: 0.0)
                attempt.advances()
                select.poll().poll(1000 * child.TIMEOUT)
                assert not attempt.advances()
        finally:
            os.kill(other, signal.SIGKILL)
            os.waitpid(other, 0)


# How this process was started.


@pytest.mark.parametrize(
    ("original", "arguments", "program"),
    [
        (["py", "-I", "/usr/sbin/graced", "-d"], ["-d"], ["-I", "/usr/sbin/graced"]),
        (["py", "-I", "/usr/sbin/graced"], [], ["-I", "/usr/sbin/graced"]),
        (["py", "-m", "graced", "-d", "-v"], ["-d", "-v"], ["-m", "graced"]),
        (["py", "other.py", "x"], ["-d"], ["-m", "graced"]),
        (["-d"], ["-d"], ["-m", "graced"]),
    ],
)
def test_launch_is_found_out(
    original: list[str],
    arguments: list[str],
    program: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "orig_argv", original)
    found = Launch.of_this_process(arguments)
    assert found.program == [sys.executable, *program]
    assert found.arguments == arguments
    assert found.directory == os.getcwd()
    assert found.descriptors == limits.hard_descriptors()
    assert found.environment == dict(os.environ)


# The side of the child.


def subject(**words: object) -> Any:
    words = {"pid": os.getppid(), **words}
    text = " ".join(f"{name}={value}" for name, value in words.items())
    return preflight.subject({preflight.VARIABLE: text})


@pytest.fixture
def _oom(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests are no check, and stay when memory gets short."""
    monkeypatch.setattr("builtins.open", lambda *_, **__: (_ for _ in ()).throw(OSError()))


@pytest.mark.usefixtures("_oom")
def test_check_judges_for_its_parent() -> None:
    found = subject(descriptors=4608, gets_listeners=0)
    assert found.descriptors == 4608
    assert found.gets_listeners == ""
    assert found.unit is None
    assert found.is_like_us
    assert subject(descriptors=-1, gets_listeners=1).gets_listeners == "the service manager"


@pytest.mark.usefixtures("_oom")
def test_check_of_another_version_is_understood() -> None:
    assert subject(later="word").descriptors == limits.hard_descriptors()


def test_variable_of_another_process_is_ignored() -> None:
    assert preflight.subject({}) is None
    assert preflight.subject({preflight.VARIABLE: "pid=1 descriptors=7"}) is None or (
        os.getppid() == 1
    )
    assert preflight.subject({preflight.VARIABLE: "nonsense"}) is None
