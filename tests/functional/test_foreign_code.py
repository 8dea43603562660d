"""What the handlers of other people need of the process around them."""

from __future__ import annotations

import dbm.dumb
import gzip
import os
import shelve
import socket
import sqlite3
import subprocess
import sys
import zipfile
from contextlib import closing
from pathlib import Path
from signal import SIGTERM, SIGUSR2
from typing import Any

import pytest

from functional.foreign import QUICK
from graced.handlers import restoring
from support import (
    PASS,
    PATIENCE,
    Client,
    Daemon,
    FdStore,
    Graced,
    environment,
    run_graced,
    wait_for_end,
)

HERE = "support.foreign_code"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("AsyncHandler", "has an async handle(), which nobody would run"),
        ("DatagramHandler", "is a DatagramRequestHandler, and this server has streams"),
        ("ThreadStartingHandler", "starts 1 thread at its import, dead in the daemon"),
        ("LowLevelThreadHandler", "starts 1 thread at its import, dead in the daemon"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--check-config",)], ids=["start", "check"])
def test_handler_that_cannot_work_is_refused(
    name: str, complaint: str, options: tuple[str, ...]
) -> None:
    found = run_graced("--config", "/dev/null", "--handler", f"{HERE}:{name}", *options)
    assert found.returncode == 78
    assert found.stderr.startswith(f"graced: handler '{HERE}:{name}' {complaint}"), found.stderr
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", [Graced, Daemon])
def test_print_file_and_exit_function_of_a_handler(
    tmp_path: Path, kind: type[Graced] | type[Daemon]
) -> None:
    options = ("--handler", f"{HERE}:PrintingHandler", "--grace", "30")
    with kind(*options, env={"DIRECTORY": str(tmp_path)}) as graced:
        with graced.connect() as client:
            client.echo(b"hello")
            if kind is Daemon:
                graced.log.wait_for("a line of a handler")
        assert graced.stop(SIGTERM) == 0
        graced.log.wait_for("a line of a handler")
        graced.log.wait_for("at the exit")
    assert (tmp_path / "file").read_text() == "buffered"


WAYS = {
    "say_by_descriptor": "by descriptor",
    "say_by_child": "by child",
    "say_by_child_on_stderr": "by child on stderr",
    "say_by_system": "by system",
    "say_by_print": "by print",
    "say_by_first_stdout": "by first stdout",
    "say_by_buffer": "by buffer",
    "say_by_warning": "UserWarning: by warning",
    "say_by_faulthandler": "in say_by_faulthandler",
    "say_by_destructor": "ValueError: a destructor",
    "say_by_thread": "ValueError: a thread",
    "say_by_library": "by library",
    "say_at_last": "at last",
}
"""What a handler does, and what is in the log then."""


def say_all(client: Client) -> None:
    for way in WAYS:
        client.send(f"{way}\n".encode())
        assert client.recv_exactly(5) == b"said\n"


def test_no_word_of_a_handler_is_lost() -> None:
    with Daemon("--handler", f"{HERE}:TalkativeHandler", "--grace", "30") as graced:
        graced.tracebacks = True
        with graced.connect() as client:
            say_all(client)
        assert graced.stop(SIGTERM) == 0
        for words in WAYS.values():
            graced.log.wait_for(words)


BESIDE_A_JOURNAL = """if True:
    import sys
    from graced.app import cli
    from graced.log import standard_streams
    standard_streams.JOURNAL_STREAM_SOCKET = sys.argv.pop(1)
    cli.main()
"""


def test_words_of_a_daemon_whose_terminal_is_closed_are_in_the_journal(tmp_path: Path) -> None:
    """A daemon keeps no terminal, and no pipe."""
    with socket.socket(socket.AF_UNIX) as journal:
        journal.bind(f"{tmp_path}/journal")
        journal.listen()
        command = [sys.executable, "-c", BESIDE_A_JOURNAL, f"{tmp_path}/journal", "--daemon"]
        options = ["--config", "/dev/null", "--handler", f"{HERE}:TalkativeHandler"]
        places = ["--listen", f"unix:{tmp_path}/socket", "--pid-file", f"{tmp_path}/pid"]
        found = subprocess.run(
            [*command, *options, *places],
            env=environment(),
            capture_output=True,
            timeout=PATIENCE,
            check=True,
        )
        assert not found.stdout
        pid = int((tmp_path / "pid").read_text())
        with Client.connect(f"unix:{tmp_path}/socket") as client:
            say_all(client)
        os.kill(pid, SIGTERM)
        assert wait_for_end(pid) == 0
        with Client(journal.accept()[0]) as stream:
            said = stream.recv_to_end().decode()
    head = "graced\n\n6\n1\n0\n0\n0\n"
    assert said.startswith(head)
    for words in WAYS.values():
        assert words in said[len(head) :]


@pytest.mark.parametrize("kind", [Graced, Daemon])
@pytest.mark.parametrize("stays", ["", "yes"], ids=["returns", "stays"])
def test_files_that_are_left_open_are_whole(
    tmp_path: Path, kind: type[Graced] | type[Daemon], stays: str
) -> None:
    """As at a normal exit of Python; a transaction that was not committed is none there either."""
    options = ("--handler", f"{HERE}:PackingHandler", "--grace", "1")
    with kind(*options, env={"DIRECTORY": str(tmp_path), "STAYS": stays}) as graced:
        with graced.connect() as client:
            client.echo(b"hello")
        assert graced.stop(SIGTERM) == 0
        assert not graced.log.count("lost")
    assert gzip.decompress((tmp_path / "packed.gz").read_bytes()) == b"packed"
    with zipfile.ZipFile(tmp_path / "archive.zip") as archive:
        assert archive.read("name") == b"packed"
    assert (tmp_path / "table").read_text() == "1,2\n"
    entries: Any = dbm.dumb.open(str(tmp_path / "shelf"), "r")  # noqa: SIM115
    shelf: Any = shelve.Shelf(entries)
    with shelf:
        assert shelf["list"] == [1]
    assert not list(tmp_path.glob("temporary*"))
    with closing(sqlite3.connect(tmp_path / "base")) as base:
        assert base.execute("SELECT x FROM t").fetchall() == [(1,)]


def test_exit_function_that_hangs(tmp_path: Path) -> None:
    """It is left behind at the deadline."""
    options = ("--handler", f"{HERE}:PrintingHandler", "--grace", "1")
    env = {"DIRECTORY": str(tmp_path), "HANGS": "yes"}
    with Graced(*options, env=env) as graced:
        with graced.connect() as client:
            client.echo(b"hello")
        assert graced.stop(SIGTERM) == 0


def test_attributes_of_the_server() -> None:
    with Graced("--handler", f"{HERE}:AskingHandler") as graced, graced.connect() as client:
        client.send(b"?")
        assert client.recv() == b"asked"


IGNORE = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"


@pytest.mark.parametrize("kind", [Graced, Daemon])
@pytest.mark.parametrize("before", ["", IGNORE], ids=["usual", "SIGTERM ignored"])
def test_handler_that_shuts_its_server_down(kind: type[Graced] | type[Daemon], before: str) -> None:
    """The service stops as by SIGTERM, and does not wait for the call."""
    options = ("--handler", f"{HERE}:QuittingHandler", "--grace", "30")
    with kind(*options, before=before) as graced:
        with graced.connect() as idle, graced.connect() as client:
            idle.echo(b"hello")
            client.echo(b"quit")
            assert client.recv_to_end() == idle.recv_to_end() == b""
        assert graced.wait() == 0
        assert graced.stopped.closed == 0
        assert graced.stopped.seconds < QUICK
        assert graced.log.count("the handler has called shutdown.., which stops the service") == 1
        assert graced.log.count("SIGTERM received") == 1
        assert not graced.log.count("has called server_close")


def test_handler_that_shuts_its_server_down_at_the_start() -> None:
    with Graced("--handler", f"{HERE}:SelfEndingHandler") as graced:
        assert graced.wait() == 0
        assert graced.log.count("the handler has called shutdown") == 1


@pytest.mark.parametrize("kind", [Graced, Daemon])
def test_hooks(kind: type[Graced] | type[Daemon]) -> None:
    with kind("--handler", f"{HERE}:HookedHandler") as graced:
        with graced.connect() as client:
            client.send(b"?")
            assert client.recv() == b"ready"
        assert graced.stop(SIGTERM) == 0
        graced.log.wait_for("the end of ready for one")


@pytest.mark.parametrize("options", [(), ("--daemon",)], ids=["foreground", "daemon"])
def test_hook_that_fails_at_the_start(tmp_path: Path, options: tuple[str, ...]) -> None:
    if options:
        options = (*options, "--pid-file", f"{tmp_path}/pid")
    listen = ("--config", "/dev/null", "--listen", f"unix:{tmp_path}/socket")
    found = run_graced(*listen, "--handler", f"{HERE}:FailingHookHandler", *options)
    assert found.returncode == 1
    assert "the hook startup of the handler has failed: FileNotFound" in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_hook_that_exits_at_the_start(tmp_path: Path) -> None:
    listen = ("--config", "/dev/null", "--listen", f"unix:{tmp_path}/socket")
    found = run_graced(*listen, "--handler", f"{HERE}:ExitingHookHandler")
    assert found.returncode == 1
    assert "the hook startup of the handler has failed: SystemExit: startup has" in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_hook_that_exits_at_the_end() -> None:
    """The functions of `atexit` are called all the same."""
    with Graced("--handler", f"{HERE}:ExitingHookHandler", env={"EXITS": "shutdown"}) as graced:
        graced.tracebacks = True
        with graced.connect() as client:
            client.echo(b"hello")
        assert graced.stop(SIGTERM) == 0
        graced.log.wait_for("the hook shutdown of the handler has failed: SystemExit: shutdown has")
        graced.log.wait_for("at the exit")


def test_hook_that_exits_when_all_are_back() -> None:
    """No client waits for the others then."""
    store = FdStore()
    with store:
        options = ("--handler", f"{HERE}:ExitingHookHandler")
        with Graced(*options, env={**store.environment, "EXITS": "no"}) as first:
            client = first.served()
            client.echo(b"hello")
            first.signal(SIGUSR2)
            assert first.wait() == 79
        env = {**store.environment, "EXITS": "restored"}
        with (
            client,
            Graced(
                *options,
                listen=first.addresses[0],
                env=env,
                before=PASS,
                pass_fds=store.descriptors,
            ) as second,
        ):
            second.tracebacks = True
            client.sock.settimeout(restoring.TIMEOUT / 2)
            client.echo(b"still here")
            client.close()
            assert second.stop(SIGTERM) == 0
            assert second.log.count("the hook restored of the handler has failed: SystemExit") == 1


def test_methods_that_are_no_hooks() -> None:
    with Graced("--handler", f"{HERE}:OtherMethodsHandler") as graced:
        with graced.connect() as client:
            client.echo(b"hello")
        assert graced.stop(SIGTERM) == 0
        assert not graced.log.count("hook")
