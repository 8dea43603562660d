"""Kill -9, and the like, of the old or new process of a reload, at states that a test can hold."""

from __future__ import annotations

import os
import re
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

import pytest

from support import PATIENCE, FdStore, attempts, wait_for_end
from support.process import status_field
from support.reloading import Reloadable, unread_letters

SLOW_SAVE = """
import os
from support.streams import MovableEcho
class Echo(MovableEcho):
    def save(self):
        if os.path.exists(gate := os.environ["GATE"]):
            # A FIFO: until the test, which has opened it too, closes it.
            open(gate).read()
        return super().save()
"""


@pytest.fixture
def store() -> Iterator[FdStore]:
    with FdStore() as store:
        yield store


def outcome(command: subprocess.Popen[str]) -> tuple[int, str]:
    """The status of the command, and what it has said."""
    stdout, stderr = command.communicate(timeout=PATIENCE)
    return command.returncode, stdout + stderr


@contextmanager
def named(daemon: Reloadable) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """A reload whose new process is ready: the service manager has not read its name yet."""
    daemon.store.hold_barriers = True
    with daemon.begin_to_reload() as command:
        named = daemon.store.wait_for("MAINPID=", 2)
        yield int(named.text.partition("=")[2]), command


def wait_until_stopped(pid: int) -> None:
    for _ in attempts(f"process {pid} is stopped"):
        if status_field(pid, "State").startswith("T"):
            return


def test_new_process_dies_when_it_is_ready(store: FdStore, tmp_path: Path) -> None:
    with Reloadable(store, tmp_path) as daemon, daemon.served() as client:
        with named(daemon) as (new, command):
            os.kill(new, SIGKILL)
            wait_for_end(new)
            status, said = outcome(command)
        assert status == 1
        assert said.count("\n") == 1
        store.release()
        client.echo(b"still")
        daemon.reload_and_wait()
        client.echo(b"moved")


def test_old_process_dies_when_the_new_one_is_the_main_process(
    store: FdStore, tmp_path: Path
) -> None:
    with Reloadable(store, tmp_path) as daemon, daemon.served() as client:
        address = daemon.addresses[0]
        with named(daemon) as (new, command):
            os.kill(daemon.pid, SIGKILL)
            assert wait_for_end(daemon.pid) == -SIGKILL
            store.release()
            outcome(command)
        client.expect_end()
        daemon.follow()
        assert daemon.pid == new
        assert daemon.addresses[0] == address
        with daemon.served() as late:
            late.echo(b"late")
        daemon.await_pid_file()
        # Asked whether it is the main process.
        assert sorted(store.names) == ["graced-clients", "graced-listeners"]


def test_new_process_dies_after_the_commit(store: FdStore, tmp_path: Path) -> None:
    with Reloadable(store, tmp_path) as daemon, daemon.served() as client:
        with named(daemon) as (new, command):
            os.kill(new, SIGSTOP)
            wait_until_stopped(new)
            store.release()
            # The commit is on its way when the old process says nothing any more.
            daemon.log.wait_for("reloading: ")
            os.kill(new, SIGKILL)
            wait_for_end(new)
            status, said = outcome(command)
        assert status == 1
        assert re.search("the new process|pid", said)
        client.echo(b"still")
        with daemon.served() as late:
            late.echo(b"late")
        store.wait_for("; the last reload failed: ")
        assert sorted(store.names) == ["graced-clients", "graced-listeners"]
        daemon.reload_and_wait()
        client.echo(b"moved")


@contextmanager
def holding(daemon: Reloadable, gate: Path) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """A reload whose batch is on its way to the new process, which is stopped."""
    os.mkfifo(gate)
    with daemon.begin_to_reload() as command:
        new = int(daemon.log.wait_for(r"serving on .* with pid (\d+)$", 2)[1])
        saving = open_for_reader(gate)
        os.kill(new, SIGSTOP)
        wait_until_stopped(new)
        gate.unlink()
        os.close(saving)
        yield new, command


def open_for_reader(fifo: Path) -> int:
    """Open a FIFO for writing, as soon as somebody waits for what is written."""
    for _ in attempts("a client is being saved"):
        with suppress(OSError):
            # ENXIO: nobody has it open for reading.
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    raise AssertionError


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GATE", str(tmp_path / "gate"))
    return tmp_path / "gate"


def test_new_process_dies_with_a_batch(store: FdStore, tmp_path: Path, gate: Path) -> None:
    handler = ("--handler", "own:Echo")
    with (
        Reloadable(store, tmp_path, *handler, library=SLOW_SAVE) as daemon,
        daemon.served() as client,
    ):
        client.echo(b"before")
        with holding(daemon, gate) as (new, command):
            os.kill(new, SIGKILL)
            wait_for_end(new)
            status, _ = outcome(command)
        assert status == 1
        client.echo(b"still")
        with daemon.served() as late:
            late.echo(b"late")
        assert daemon.pid_file.read_text() == f"{daemon.pid}\n"
        store.wait_for("; the last reload failed: ")


def test_old_process_dies_when_a_batch_is_sent(store: FdStore, tmp_path: Path, gate: Path) -> None:
    handler = ("--handler", "own:Echo")
    with (
        Reloadable(store, tmp_path, *handler, library=SLOW_SAVE) as daemon,
        daemon.served() as client,
    ):
        client.echo(b"before")
        with holding(daemon, gate) as (new, command):
            # The batch is in the channel when nobody serves the client.
            client.send(b"meanwhile")
            for _ in attempts("a letter waits for the new process"):
                if unread_letters(new):
                    break
            os.kill(daemon.pid, SIGKILL)
            wait_for_end(daemon.pid)
            os.kill(new, SIGCONT)
            outcome(command)
        daemon.follow()
        assert client.recv_exactly(9) == b"meanwhile"
        client.echo(b"served")


@pytest.mark.parametrize("who", ["old", "new"])
def test_process_dies_while_the_rest_is_drained(store: FdStore, tmp_path: Path, who: str) -> None:
    handler = ("--handler", "support.handlers:TellingHandler")
    with (
        Reloadable(store, tmp_path, *handler, "--grace", "60") as daemon,
        daemon.served() as client,
    ):
        client.echo(b"begun")
        assert daemon.reload()[0] == 0
        old = daemon.follow()
        client.expect_farewell_alone()
        if who == "old":
            os.kill(old, SIGKILL)
            assert wait_for_end(old) == -SIGKILL
            daemon.await_pid_file()
            with daemon.served() as late:
                late.echo(b"late")
        else:
            os.kill(daemon.pid, SIGKILL)
            assert daemon.wait() == -SIGKILL
            # The rest has a second; then the service manager starts the service again.
            assert wait_for_end(old) == 79
            assert "graced-listeners" in store.names


def test_pidfile_that_cannot_be_written_fails_the_reload(store: FdStore, tmp_path: Path) -> None:
    """Else systemd would read the file, and take the old process for the main one."""
    with Reloadable(store, tmp_path) as daemon:
        with named(daemon) as (_, command):
            # The new process has its own limit by now.
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (0, 0))
            store.release()
            status, said = outcome(command)
        assert status == 1
        reason = f"cannot write pidfile {daemon.pid_file}: File too large"
        assert said == f"gracectl: the reload has failed: {reason}\n"
        assert wait_for_end(daemon.follow()) == 79
        with daemon.served() as client:
            client.echo(b"served")
        daemon.await_pid_file()
