"""gracectl(1) as a process: signals, pipes and exit statuses."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from graced.ctl import gracectl
from graced.sockets.address import Address
from support.peers import echo, echo_and_farewell, echo_and_hang_up, mute, serving, tcp, twist

ENVIRONMENT = {name: value for name, value in os.environ.items() if "PYTHON" not in name}
ENVIRONMENT["PYTHONPATH"] = str(Path(gracectl.__file__).parents[2])
WRONG_USAGE = 2
SYN_SENT = "02"
COMMAND = [sys.executable, "-m", "graced.ctl.gracectl"]


@contextlib.contextmanager
def running(*argv: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*COMMAND, *argv],
        env=ENVIRONMENT,
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_ctrl_c_ends_a_process_with_the_summary() -> None:
    with serving(echo, tcp()) as address, running("ping", "-i60", address) as process:
        assert read_line(process).startswith("PING")
        # Its output is a pipe, and still comes line by line.
        assert " seq=1 " in read_line(process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert "1 sent, 1 received, 0% loss" in out
    assert err == ""
    assert process.returncode == gracectl.ALL_BACK


def test_ignored_interrupt_stays_ignored() -> None:
    """A shell without job control ignores SIGINT for a program in the background."""
    with (
        serving(echo, tcp()) as address,
        running(
            *("ping", "-i0", "-c1000", address),
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        ) as process,
    ):
        assert read_line(process).startswith("PING")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert "1000 sent, 1000 received, 0% loss" in out
    assert err == ""
    assert process.returncode == gracectl.ALL_BACK


def test_ctrl_c_does_not_lose_a_ping_of_a_flood() -> None:
    with serving(echo, tcp()) as address, running("ping", "-i0", address) as process:
        read_line(process)
        read_line(process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert ", 0% loss, " in out
    assert err == ""
    assert process.returncode == gracectl.ALL_BACK


def test_ctrl_c_while_no_reply_comes() -> None:
    pinged = threading.Event()

    def script(sock: socket.socket) -> None:
        sock.recv(1)
        pinged.set()
        mute(sock)

    with serving(script, tcp()) as address, running("ping", address) as process:
        pinged.wait()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert "1 sent, 0 received, 100% loss" in out
    assert err == ""
    assert process.returncode == gracectl.SOME_LOST


def connecting(port: int) -> bool:
    """Whether some socket of this machine waits for an answer from that port, proc(5)."""
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    waiting = [there for _, _, there, state, *_ in sockets if state == SYN_SENT]
    return any(there.endswith(f":{port:04X}") for there in waiting)


def test_ctrl_c_while_connecting_ends_a_process_without_a_traceback() -> None:
    with tcp() as listener, contextlib.ExitStack() as stack:
        # With its queue full the kernel leaves the next client without an answer.
        listener.listen(0)
        name = listener.getsockname()
        stack.enter_context(socket.create_connection(name))
        process = stack.enter_context(running("ping", str(Address(*name))))
        while not connecting(name[1]):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (out, err) == ("", "")
    assert process.returncode == 128 + signal.SIGINT


def test_reader_that_leaves_ends_a_process_quietly() -> None:
    with serving(echo, tcp()) as address, running("ping", "-i0", address) as process:
        read_line(process)
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait() == 128 + signal.SIGPIPE
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_full_disk_is_one_line_on_stderr() -> None:
    with (
        Path("/dev/full").open("w") as full,
        serving(echo, tcp()) as address,
        running("ping", "-c1", address, stdout=full) as process,
    ):
        _, err = process.communicate()
    assert err == "gracectl: cannot write: No space left on device\n"
    assert process.returncode == gracectl.SOME_LOST


@pytest.mark.parametrize(
    ("script", "status"),
    [(echo, 0), (twist, 1), (echo_and_hang_up, 1), (echo_and_farewell, 3)],
)
def test_exit_status_of_a_process(script: Callable[[socket.socket], None], status: int) -> None:
    with serving(script, tcp()) as address, running("ping", "-c2", "-i.01", address) as process:
        process.communicate()
    assert process.returncode == status


def test_exit_status_without_a_connection() -> None:
    with running("ping", "unix:/nonexistent") as process:
        _, err = process.communicate()
    assert process.returncode == gracectl.NO_CONNECTION
    assert err.count("\n") == 1


def test_exit_status_of_wrong_usage() -> None:
    with running("ping", "::1") as process:
        process.communicate()
    assert process.returncode == WRONG_USAGE
