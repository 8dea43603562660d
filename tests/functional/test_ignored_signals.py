"""Signals that the caller ignores: nohup(1), and a shell without job control."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path
from signal import (
    SIGCHLD,
    SIGHUP,
    SIGINT,
    SIGPIPE,
    SIGQUIT,
    SIGTERM,
    SIGURG,
    SIGUSR1,
    SIGUSR2,
    SIGXFSZ,
    Signals,
)
from socket import SO_LINGER, SOL_SOCKET

import pytest

from support import (
    PATIENCE,
    Daemon,
    Graced,
    NotifySocket,
    environment,
    launch,
    run_graced,
    wait_for_end,
)

KINDS = pytest.mark.parametrize("kind", [Graced, Daemon], ids=["foreground", "daemon"])
Kind = type[Graced | Daemon]


def ignoring(*signums: Signals) -> str:
    """For `support.process.launch`: what a caller does that ignores signals."""
    lines = [f"signal.signal({int(signum)}, signal.SIG_IGN)" for signum in signums]
    return "\n".join(["import signal", *lines])


@KINDS
@pytest.mark.parametrize("signum", [SIGHUP, SIGINT, SIGQUIT, SIGUSR2], ids=lambda each: each.name)
def test_ignored_signal_changes_nothing(kind: Kind, signum: Signals) -> None:
    with kind(before=ignoring(signum)) as graced, graced.served() as client:
        graced.signal(signum)
        graced.signal(SIGUSR1)
        graced.log.wait_for("<6>serving: 1 client now")
        client.echo(b"hello")
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        graced.signal(signum)
        client.echo(b"still here")
        client.close()
        assert graced.wait() == 0
        assert not graced.log.count(signum.name)


@KINDS
@pytest.mark.parametrize("signum", [SIGTERM, SIGUSR1], ids=lambda each: each.name)
def test_ignored_signal_leaves_the_others(kind: Kind, signum: Signals) -> None:
    with kind("--grace", "30", before=ignoring(signum)) as graced, graced.served() as client:
        graced.signal(signum)
        client.echo(b"hello")
        graced.signal(SIGHUP)
        client.expect_farewell_alone()
        graced.signal(signum)
        client.echo(b"still here")
        graced.signal(SIGINT)
        client.close()
        assert graced.wait() == 0
        assert not graced.log.count(signum.name)
        assert graced.log.count("SIGINT") == 1


@KINDS
@pytest.mark.parametrize("signum", [SIGPIPE, SIGCHLD, SIGXFSZ, SIGURG], ids=lambda each: each.name)
@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
def test_signal_that_is_not_ours_may_be_ignored(kind: Kind, signum: Signals, handler: str) -> None:
    with kind("--handler", handler, before=ignoring(signum)) as graced:
        with graced.served() as client:
            client.sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            client.send(b"gone, with a reset")
        graced.log.wait_for("<6>closing connection")
        with graced.served() as client:
            graced.signal(SIGTERM)
            client.expect_farewell_alone()
            client.close()
            assert graced.wait() == 0


@KINDS
@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
def test_mask_of_the_caller_blocks_nothing(kind: Kind, handler: str) -> None:
    """A program that waits for signals in one thread starts others with all of them blocked."""
    before = "import signal\nsignal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())"
    with kind("--handler", handler, before=before) as graced, graced.served() as client:
        graced.signal(SIGUSR1)
        graced.log.wait_for("<6>serving: 1 client now")
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        graced.signal(SIGINT)
        client.expect_end()
        assert graced.wait() == 0


@KINDS
def test_all_stop_signals_ignored_but_one(kind: Kind) -> None:
    """nohup(1) in a background job of a script: what is left is `kill`."""
    before = ignoring(SIGHUP, SIGINT, SIGQUIT)
    with kind("--grace", "30", before=before) as graced, graced.served() as client:
        for signum in (SIGHUP, SIGINT, SIGQUIT):
            graced.signal(signum)
        client.echo(b"hello")
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        for signum in (SIGHUP, SIGINT, SIGQUIT):
            graced.signal(signum)
        client.echo(b"still here")
        client.close()
        assert graced.wait() == 0


@pytest.mark.parametrize("signum", [SIGHUP, SIGINT, SIGQUIT, SIGTERM], ids=lambda each: each.name)
def test_signal_that_waits_blocked_at_the_start_is_a_stop(signum: Signals) -> None:
    """It was sent to a program that had blocked it, and became graced."""
    block = (
        "import os, signal\nsignal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())\n"
        f"os.kill(os.getpid(), {int(signum)})\n"
    )
    found = run_graced("--config", "/dev/null", "--listen", "127.0.0.1:0", before=block)
    assert found.returncode == 0
    assert f"{signum.name} received" in found.stderr
    assert "Traceback" not in found.stderr


def test_child_of_a_handler_has_the_signals_of_the_caller() -> None:
    """Ignored signals stay ignored for it, the others are as ever, and none is blocked."""
    with (
        Graced("--handler", "support.odd:Signals", before=ignoring(SIGHUP)) as graced,
        graced.served() as client,
    ):
        client.send(b"which?")
        ignored, blocked, caught = (int(word, 16) for word in client.recv_to_end().split())
    assert ignored & 1 << SIGHUP - 1
    assert not ignored & 1 << SIGTERM - 1
    assert not blocked
    assert not caught


@KINDS
def test_service_manager_stops_with_each_signal(kind: Kind, notify_socket: NotifySocket) -> None:
    before = ignoring(SIGHUP, SIGINT, SIGQUIT)
    with kind(env=notify_socket.environment, before=before) as graced, graced.served() as client:
        graced.signal(SIGHUP)
        client.expect_farewell_alone()
        graced.signal(SIGINT)
        client.expect_end()
        assert graced.wait() == 0


def test_service_without_notify_socket_stops_with_each_signal() -> None:
    """Type=exec: systemd says of whom INVOCATION_ID is."""
    before = ignoring(SIGHUP) + "\nimport os\nos.environ['SYSTEMD_EXEC_PID'] = str(os.getpid())"
    with Graced(env={"INVOCATION_ID": "0"}, before=before) as graced:
        assert graced.stop(SIGHUP) == 0


def test_nohup_from_shell_without_job_control(tmp_path: Path) -> None:
    pid_file, log = tmp_path / "pid", tmp_path / "log"
    options = ["--config", "/dev/null", "--pid-file", str(pid_file), "--listen", "127.0.0.1:0"]
    command = ["nohup", *launch(), "--daemon", *options]
    with log.open("wb") as file:
        subprocess.run(
            ["sh", "-c", '"$@" & wait $!', "sh", *command],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            timeout=PATIENCE,
            check=True,
        )
    pid = int(pid_file.read_text())
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        fields = dict(line.split(":\t") for line in status)
    ignored = int(fields["SigIgn"], 16)
    for signum in (SIGHUP, SIGINT, SIGQUIT):
        assert ignored & 1 << signum - 1
    os.kill(pid, SIGTERM)
    assert wait_for_end(pid) == 0
