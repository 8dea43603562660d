"""A reload in the old process: how it fails, why in one line, and what becomes of clients."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from graced.app import child
from graced.app.attempt import Attempt
from graced.app.launch import Launch
from graced.reload import batch
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


class Service:
    """A `Work` that notes what is wanted of it, in the place of a service with three clients."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.batches: list[list[Any]] = []
        self.reasons: list[str] = []
        self.named = -1
        """Open until the service manager has read `MAINPID=`."""

    def offer(self, channel: Channel) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            channel.send(Message.OFFER, {"listeners": 1}, descriptors=[listener.fileno()])

    def name(self, pid: int) -> int:
        read, self.named = os.pipe()
        return read

    def manager_reads(self) -> None:
        if self.named >= 0:
            os.close(self.named)
        self.named = -1

    def commit(self, channel: Channel) -> None:
        self.asked.append("commit")
        channel.send(Message.COMMIT)

    def freeze(self) -> list[Any]:
        self.asked.append("freeze")
        return self.batches.pop(0) if self.batches else []

    def send_batch(self, channel: Channel, clients: Sequence[Any]) -> None:
        channel.send(Message.BATCH, {"clients": len(clients)})

    def write_pid(self, pid: int) -> None:
        self.asked.append("write_pid")

    def send_moved(self, channel: Channel) -> None:
        channel.send(Message.MOVED)

    def take_back(self, clients: Sequence[Any], *, stay: bool) -> None:
        self.asked.append(f"take back {len(clients)}{' for good' * stay}")

    def close_copies(self, clients: Sequence[Any]) -> None:
        self.asked.append(f"close {len(clients)}")

    def report(self, reason: str) -> None:
        self.reasons.append(reason)

    def __getattr__(self, name: str) -> Callable[[], None]:
        """What needs no more than a note: `accept`, `drain`."""
        return lambda: self.asked.append(name)


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
    service = Service()
    attempt = Attempt(of, service)
    attempt.begin()
    follow(attempt, State.ALONE)
    assert attempt.watched == []
    assert service.reasons == [attempt.reason]
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
    service = Service()
    attempt = Attempt(launch(READY), service)
    attempt.begin()
    follow(attempt, State.READY, State.ALONE)
    assert attempt.state is State.READY, attempt.reason
    attempt.give_up("it is not wanted")
    follow(attempt, State.ALONE)
    assert attempt.reason == "it is not wanted"
    service.manager_reads()


def test_new_process_that_dies_when_it_is_ready_is_one_line() -> None:
    service = Service()
    attempt = Attempt(launch(READY.replace("channel.recv(99)", "os._exit(1)")), service)
    attempt.begin()
    follow(attempt, State.ALONE)
    assert attempt.reason == "the new process has ended without a word"
    service.manager_reads()


def test_offer_that_cannot_be_sent_is_one_line() -> None:
    class TooMany(Service):
        def offer(self, channel: Channel) -> None:
            channel.send(Message.OFFER, descriptors=[0] * 300)

    attempt = Attempt(launch(HANGS), TooMany())
    attempt.begin()
    follow(attempt, State.ALONE)
    assert attempt.reason == "the listeners cannot be offered: Message too long"


# After the commit: what becomes of a batch of three clients, cookies 1 to 3.

COMMITTED = (
    READY.removesuffix("channel.recv(99)\n")
    + """
assert channel.recv(99) == b"COMMIT\\n"
channel.send(b"ACCEPTING\\n")
"""
)
HOLDING = (
    COMMITTED
    + """
assert channel.recv(99) == b"BATCH clients=3\\n"
"""
)
RELEASING = (
    HOLDING
    + """
channel.send(b"TAKEN\\n" + struct.pack("=QQ", 1, 3))
assert channel.recv(99) == b"RELEASED\\n"
"""
)
MOVED = (
    RELEASING
    + """
channel.send(b"SERVING\\n")
assert channel.recv(99) == b"MOVED\\n"
"""
)
DIES = "os.kill(os.getpid(), 9)"


def committed(code: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Attempt, Service]:
    """An attempt whose new process the service manager knows."""
    monkeypatch.setattr(batch, "cookie", lambda number: number)
    service = Service()
    service.batches = [[SimpleNamespace(sock=number) for number in (1, 2, 3)]]
    attempt = Attempt(launch("import struct\n" + code), service)
    attempt.begin()
    follow(attempt, State.READY, State.ALONE)
    assert attempt.state is State.READY, attempt.reason
    service.manager_reads()
    return attempt, service


def test_clients_move_but_for_one_that_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    attempt, service = committed(MOVED + "channel.recv(99)", monkeypatch)
    follow(attempt, State.DRAINING_REST, State.ALONE)
    assert service.asked == [
        *("commit", "stop_accepting", "freeze", "take back 1 for good", "close 2"),
        *("freeze", "write_pid", "drain_rest"),
    ]
    assert service.reasons == [""]
    attempt.rest_gone()
    assert attempt.state is State.ENDED
    assert attempt.watched == []


@pytest.mark.parametrize(
    ("code", "asked"),
    [
        (READY, ["commit"]),
        (HOLDING, ["commit", "stop_accepting", "freeze", "take back 3", "accept"]),
        (
            RELEASING,
            ["commit", "stop_accepting", "freeze", "take back 1 for good", "take back 2", "accept"],
        ),
    ],
    ids=["committed", "holding", "releasing"],
)
def test_new_process_that_dies_gives_back_what_it_does_not_serve(
    code: str, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt, service = committed(code + "\n" + DIES, monkeypatch)
    follow(attempt, State.ALONE)
    assert sorted(service.asked) == sorted(asked)
    assert service.reasons == [f"the new process with pid {attempt.pid} is gone"]
    # Nothing is watched for ever that says again and again that it is dead.
    assert attempt.watched == []
    attempt.close()


def test_new_process_that_dies_as_soon_as_it_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first batch is frozen, or after."""
    attempt, service = committed(COMMITTED + DIES, monkeypatch)
    follow(attempt, State.ALONE)
    assert service.asked[:2] == ["commit", "stop_accepting"]
    assert "accept" in service.asked
    assert service.asked.count("freeze") == service.asked.count("take back 3")
    assert service.reasons == [f"the new process with pid {attempt.pid} is gone"]
    attempt.close()


def test_new_process_that_dies_later_ends_the_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    attempt, service = committed(MOVED + DIES, monkeypatch)
    follow(attempt, State.STOPPING)
    assert service.asked[-2:] == ["drain_rest", "hurry"]
    assert service.reasons == [""]
    attempt.rest_gone()
    assert attempt.state is State.ENDED


def test_batch_that_is_not_answered_is_revoked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graced.app.attempt.TAKEN_TIMEOUT", 0.2)
    code = HOLDING + "assert channel.recv(99) == b'REVOKED\\n'\nchannel.recv(99)\nchannel.recv(99)"
    attempt, service = committed(code, monkeypatch)
    follow(attempt, State.DRAINING_REST)
    assert service.asked[-2:] == ["take back 3", "drain_rest"]
    assert service.reasons == ["the new process has not restored a batch in 0.2 s"]
    attempt.close()


def test_manager_that_does_not_read_ends_the_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graced.app.attempt.NAMED_TIMEOUT", 0.2)
    service = Service()
    attempt = Attempt(launch(READY), service)
    attempt.begin()
    follow(attempt, State.ALONE)
    assert service.reasons == ["the service manager has read nothing for 0.2 s"]
    assert service.asked == ["unname"]
    service.manager_reads()


def test_stop_before_the_commit_kills_the_new_process() -> None:
    service = Service()
    attempt = Attempt(launch(HANGS), service)
    attempt.begin()
    follow(attempt, State.OFFERED)
    new = os.pidfd_open(attempt.pid)
    assert attempt.stop()
    poll = select.poll()
    poll.register(new, select.POLLIN)
    assert poll.poll(PATIENCE * 1000)
    os.close(new)


def test_stop_after_the_commit_is_for_the_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    code = MOVED + "assert channel.recv(99) == b'STOP\\n'\nchannel.send(b'STOPPING restart=1\\n')"
    attempt, service = committed(code + "\nchannel.recv(99)", monkeypatch)
    follow(attempt, State.DRAINING_REST)
    assert not attempt.stop()
    follow(attempt, State.STOPPING)
    assert service.asked[-1] == "drain"
    assert attempt.restarts
    attempt.rest_gone()


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
