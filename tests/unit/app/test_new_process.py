"""The start of a new process beside this one: other programs in place of graced, and graced."""

from __future__ import annotations

import os
import select
import socket
from pathlib import Path

import pytest

from graced.app.new_process import CHANNEL, NewProcess
from graced.reload.channel import Letter
from graced.reload.table import Message
from support import PATIENCE
from support.new_process import HANGS, WAITS, launch


def look(new: NewProcess) -> tuple[list[Letter], bool]:
    """Look when there is something to look at."""
    poll = select.poll()
    for fd in new.watched:
        poll.register(fd, select.POLLIN)
    assert poll.poll(PATIENCE * 1000)
    return new.look()


def until_gone(new: NewProcess) -> list[Message]:
    """All that it says until it is gone."""
    said: list[Message] = []
    while True:
        letters, gone = look(new)
        said += [letter.message for letter in letters]
        if gone:
            return said


def greeting(new: NewProcess) -> Letter:
    while True:
        letters, gone = look(new)
        assert not gone, new.reason
        if letters:
            (hello,) = letters
            assert hello.message is Message.HELLO
            return hello


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("sys.exit('graced: /etc/graced.toml: a is no b')", "/etc/graced.toml: a is no b"),
        ("sys.exit(7)", "the new process ended with status 7"),
        ("os.kill(os.getpid(), 9)", "the new process was killed by signal 9"),
        ("", "the new process has ended without a word"),
    ],
    ids=["import", "refused", "status", "killed", "nothing"],
)
def test_end_of_the_command_is_explained(code: str, reason: str) -> None:
    with NewProcess(launch(code)) as new:
        assert until_gone(new) == []
        assert new.reason == reason


def test_new_process_outlives_its_command_and_says_its_pid() -> None:
    with NewProcess(launch(WAITS)) as new:
        pid = greeting(new).number("pid")
        while new.running:
            look(new)
        assert Path(f"/proc/{pid}").exists()
        assert new.look() == ([], False)
        new.channel.send(Message.COMMIT)
        assert until_gone(new) == []
        assert new.reason == "the new process has ended without a word"


def test_reason_of_the_new_process_comes_first() -> None:
    code = (
        "detach(); channel.send(b'READY\\n'); channel.send(b'FAILED\\nno address'); sys.exit('x')"
    )
    with NewProcess(launch(code)) as new:
        assert until_gone(new) == [Message.HELLO, Message.READY, Message.FAILED]
        assert new.reason == "no address"


@pytest.mark.parametrize("code", [HANGS, "signal.pause()"], ids=["daemon", "command"])
def test_silent_process_is_killed(code: str) -> None:
    with NewProcess(launch(code)) as new:
        if code is HANGS:
            greeting(new)
        new.kill()
        assert until_gone(new) == []


def test_process_without_hello_ends_with_the_channel() -> None:
    """It is detached, and cannot be killed by a pid that nobody knows."""
    code = """
if os.fork():
    os._exit(0)
os.setsid()
assert channel.recv(99) == b""
"""
    with NewProcess(launch(code)) as new:
        while new.running:
            assert look(new) == ([], False)
        new.kill()
        assert until_gone(new) == []


def test_what_is_left_at_the_end_is_killed() -> None:
    with NewProcess(launch(HANGS)) as new:
        pid = greeting(new).number("pid")
        ended = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    assert poll.poll(PATIENCE * 1000)
    os.close(ended)


def test_new_process_gets_the_channel_and_nothing_else() -> None:
    code = """
import stat
def is_socket(fd):
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False
sys.exit(f"{[*filter(is_socket, range(1000))]} {os.environ.get('NOTIFY_SOCKET')}")
"""
    with socket.create_server(("127.0.0.1", 0)), NewProcess(launch(code)) as new:
        until_gone(new)
        assert new.reason == f"[{CHANNEL}] None"


def test_program_that_is_gone_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        NewProcess(launch("", program=["/nonexistent/python3"]))
