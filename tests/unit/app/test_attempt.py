"""A reload until the new process is ready: how it fails, and the line that says why."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from pathlib import Path
from time import monotonic

import pytest

from graced.app import child
from graced.app.attempt import Attempt
from graced.app.launch import Launch
from graced.reload.channel import Channel
from graced.reload.old_side import State
from graced.reload.table import Message
from support import PATIENCE
from support.leaks import children
from support.new_process import HANGS, launch

READY = """
detach()
letter, fds, _, _ = socket.recv_fds(channel, 999, 9)
assert letter == b"OFFER listeners=1\\n"
assert socket.socket(fileno=fds[0]).getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
channel.send(b"READY\\n")
channel.recv(99)
"""


def offer(channel: Channel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        channel.send(Message.OFFER, {"listeners": 1}, descriptors=[listener.fileno()])


def follow(attempt: Attempt, *states: State) -> None:
    """Look until the attempt is in one of the states."""
    deadline = monotonic() + PATIENCE
    while attempt.state not in states:
        assert monotonic() < deadline, attempt.state
        poll = select.poll()
        for fd in attempt.watched:
            poll.register(fd, select.POLLIN)
        poll.poll(1000 * max(0.0, min(attempt.due, deadline) - monotonic()))
        attempt.look()


def outcome(of: Launch) -> str:
    """Why the reload has failed."""
    attempt = Attempt(of, offer)
    attempt.begin()
    follow(attempt, State.ALONE)
    assert attempt.watched == []
    return attempt.reason


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("sys.exit('graced: refused')", "refused"),
        ("os.kill(os.getpid(), 9)", "the new process was killed by signal 9"),
        ("detach(); os.kill(os.getpid(), 9)", "the new process has ended without a word"),
        ("detach(); channel.recv(99); channel.send(b'FAILED\\nno address')", "no address"),
        ("channel.send(b'READY\\n'); signal.pause()", "the new process says READY out of turn"),
        (
            "detach(); channel.send(b'STOP\\n'); signal.pause()",
            "the new process says STOP out of turn",
        ),
    ],
    ids=["import", "refused", "killed", "ends", "fails", "too early", "nonsense"],
)
def test_failure_is_one_line(code: str, reason: str) -> None:
    assert outcome(launch(code)) == reason


def test_program_that_is_gone_is_one_line() -> None:
    gone = launch("", program=["/nonexistent/python3"])
    assert outcome(gone) == "the new process cannot be started: No such file or directory"


@pytest.mark.parametrize("code", [HANGS, "signal.pause()"], ids=["daemon", "command"])
def test_silent_process_is_killed(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "TIMEOUT", 0.5)
    assert outcome(launch(code)).startswith("the new process is not ready after ")


def test_new_process_gets_ready_and_is_called_off() -> None:
    attempt = Attempt(launch(READY), offer)
    attempt.begin()
    follow(attempt, State.READY, State.ALONE)
    assert attempt.state is State.READY, attempt.reason
    attempt.give_up("it is not built yet")
    follow(attempt, State.ALONE)
    assert attempt.reason == "it is not built yet"


def test_new_process_that_dies_when_it_is_ready_is_one_line() -> None:
    attempt = Attempt(launch(READY.replace("channel.recv(99)", "os._exit(1)")), offer)
    attempt.begin()
    follow(attempt, State.ALONE)
    assert attempt.reason == "the new process has ended without a word"


def test_offer_that_cannot_be_sent_is_one_line() -> None:
    def too_many(channel: Channel) -> None:
        channel.send(Message.OFFER, descriptors=[0] * 300)

    attempt = Attempt(launch(HANGS), too_many)
    attempt.begin()
    follow(attempt, State.ALONE)
    assert attempt.reason == "the listeners cannot be offered: Message too long"


# The real program.


def graced(*arguments: str, **environment: str) -> Launch:
    return Launch(
        program=[sys.executable, "-m", "graced"],
        arguments=["--daemon", *arguments],
        environment={**os.environ, **environment},
        directory=os.getcwd(),
        descriptors=4608,
    )


def test_configuration_of_the_new_process_is_refused_in_one_line(tmp_path: Path) -> None:
    configuration = tmp_path / "graced.toml"
    configuration.write_text("[limits]\nmax_clients = -1\n")
    reason = outcome(graced("--config", str(configuration)))
    assert reason.startswith(f"{configuration}: limits.max_clients")


def test_code_of_the_new_process_does_not_import(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("import no_such_module\n")
    reason = outcome(
        graced("--handler", "own:Echo", PYTHONPATH=f"{tmp_path}:{os.pathsep.join(sys.path)}")
    )
    assert "no_such_module" in reason
    assert "\n" not in reason


def test_nothing_is_left_of_a_new_process() -> None:
    """Not the command either, which is our child and would stay a zombie."""
    before = children()
    assert outcome(launch("sys.exit('no')")) == "no"
    assert children() <= before
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
