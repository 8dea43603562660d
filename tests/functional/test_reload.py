"""A reload of real processes: clients stay, and a start that fails changes nothing."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from signal import SIGTERM, SIGUSR2

import pytest

from support import PASS, PATIENCE, Client, Daemon, FdStore, tls, wait_for_end
from support.control import gracectl
from support.process import LEFT_TO_THE_KERNEL
from support.reloading import Reloadable, Talking, echo_all

CROWD = 300
"""Clients that do not fit into one batch."""
OWN = "from support.streams import MovableEcho\nclass Echo(MovableEcho): pass\n"


@pytest.fixture
def store() -> Iterator[FdStore]:
    with FdStore() as store:
        yield store


def test_clients_move_while_they_talk(store: FdStore, tmp_path: Path) -> None:
    with Reloadable(store, tmp_path) as daemon, ExitStack() as stack:
        clients = [stack.enter_context(daemon.served()) for _ in range(CROWD)]
        echo_all(clients, b"before")
        with Talking(clients[::50]) as talking:
            status, said = daemon.reload()
            old = daemon.follow()
        assert (status, said) == (
            0,
            f"reloaded: {CROWD} clients moved to the process with pid {daemon.pid},"
            " 0 remaining with the old one\n",
        )
        assert talking.rounds
        assert wait_for_end(old) == 79
        echo_all(clients, b"after")
        with daemon.served() as late:
            late.echo(b"late")
        daemon.await_pid_file()
        assert sorted(store.names) == ["graced-clients", "graced-listeners"]
        said_by_old = [each.text for each in daemon.said_by(old)]
        assert said_by_old[-1] == f"MAINPID={daemon.pid}"
        assert not any("STOPPING" in text for text in said_by_old)
        first = daemon.said_by(daemon.pid)[0]
        assert first.text.startswith("READY=1\n")
        messages = store.messages
        named = next(each for each in messages if each.text == f"MAINPID={daemon.pid}")
        assert messages.index(named) < messages.index(first)
        assert daemon.stop() == 0
        assert not daemon.pid_file.exists()


@pytest.mark.parametrize("times", [3])
def test_one_reload_after_the_other(store: FdStore, tmp_path: Path, times: int) -> None:
    handler = "own:Echo"
    with (
        Reloadable(store, tmp_path, "--handler", handler, library=OWN) as daemon,
        daemon.served() as client,
    ):
        for number in range(times):
            client.echo(b"%d" % number)
            daemon.reload_and_wait()
        client.echo(b"at last")
        # Of all processes together.
        store.wait_for("serving: 1 client now, 1 so far, 10 bytes echoed")


def test_clients_of_a_path_move_and_the_path_stays(store: FdStore, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Reloadable(store, tmp_path, listen=f"unix:{path}") as daemon, daemon.served() as client:
        client.echo(b"before")
        daemon.reload_and_wait()
        client.echo(b"after")
        with daemon.served() as late:
            late.echo(b"late")
        assert daemon.stop() == 0
    assert not path.exists()


def test_configuration_is_changed(store: FdStore, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    text = '[server]\nlisten = ["127.0.0.1:0", "unix:{}"]\n'
    with (
        Reloadable(store, tmp_path, listen=(), config=text.format(first)) as daemon,
        daemon.served(0) as client,
        daemon.served(1) as other,
    ):
        daemon.config_file.write_text(text.format(second))
        address = daemon.addresses[0]
        daemon.reload_and_wait()
        echo_all([client, other], b"moved")
        assert not first.exists()
        with Client.connect(f"unix:{second}") as late:
            late.echo(b"late")
        with Client.connect(address) as late:
            late.echo(b"late")


def test_restart_after_a_reload(store: FdStore, tmp_path: Path) -> None:
    with Reloadable(store, tmp_path) as daemon, daemon.served() as client:
        daemon.reload_and_wait()
        client.echo(b"reloaded")
        daemon.signal(SIGUSR2)
        assert daemon.wait() == 79
        env = {**store.environment, **LEFT_TO_THE_KERNEL}
        with Daemon(listen=daemon.addresses[0], env=env, before=PASS, pass_fds=store.descriptors):
            client.echo(b"restarted")


@pytest.mark.parametrize(
    ("handler", "number"),
    [
        ("support.movable:CountingHandler", 1),
        ("support.movable:CountingHandler", CROWD),
        ("support.asynchronous:Counter", CROWD),
    ],
)
def test_clients_of_handlers_move_with_their_state(
    store: FdStore, tmp_path: Path, handler: str, number: int
) -> None:
    config = f"[limits]\nmax_handler_threads = {CROWD}\n"
    with (
        Reloadable(store, tmp_path, "--handler", handler, config=config) as daemon,
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(daemon.served()) for _ in range(number)]
        for round in (b"1", b"2"):
            for client in clients:
                client.send(b"count")
                assert client.recv().rstrip() == round
        status, said = daemon.reload()
        assert (status, said.partition(" moved")[0]) == (
            0,
            f"reloaded: {number} client{'s' * (number > 1)}",
        )
        assert wait_for_end(daemon.follow()) == 79
        for client in clients:
            client.send(b"count")
            assert client.recv().rstrip() == b"3"


def test_handler_that_is_busy_is_waited_for(
    store: FdStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    monkeypatch.setenv("GATE", str(gate))
    with (
        Reloadable(store, tmp_path, "--handler", "support.movable:CountingHandler") as daemon,
        daemon.served() as busy,
        daemon.served() as other,
    ):
        other.send(b"count")
        assert other.recv() == b"1"
        busy.send(b"busy")
        with daemon.begin_to_reload() as command:
            daemon.log.wait_for(r"serving on .* with pid (\d+)$", 2)
            # Served while the handler of another is waited for.
            other.send(b"count")
            assert other.recv() == b"2"
            gate.touch()
            command.communicate(timeout=PATIENCE)
            assert command.returncode == 0
        assert busy.recv() == b"1"
        assert wait_for_end(daemon.follow()) == 79
        busy.send(b"count")
        assert busy.recv() == b"2"


def test_client_that_cannot_move_is_drained_by_the_old_process(
    store: FdStore, tmp_path: Path
) -> None:
    handler = ("--handler", "support.handlers:TellingHandler")
    with (
        Reloadable(store, tmp_path, *handler, "--grace", "30") as daemon,
        daemon.served() as client,
    ):
        client.echo(b"begun")
        status, said = daemon.reload()
        old = daemon.follow()
        assert (status, said.rstrip()) == (
            0,
            f"reloaded: 0 clients moved to the process with pid {daemon.pid},"
            " 1 remaining with the old one",
        )
        client.expect_farewell_alone()
        with daemon.served() as late:
            late.echo(b"late")
            assert daemon.reload() == (
                1,
                "gracectl: the reload has failed: the old process of the last reload drains"
                " clients yet\n",
            )
            client.close()
            assert wait_for_end(old) == 79
            late.echo(b"later")


def test_counts_go_on(store: FdStore, tmp_path: Path) -> None:
    config = "[limits]\nmax_clients = 1\n"

    def refuse(daemon: Reloadable) -> None:
        with Client.connect(daemon.addresses[0]) as refused:
            refused.expect_farewell_alone()

    def counts(daemon: Reloadable) -> tuple[object, ...]:
        done = gracectl("status", "--json", directory=daemon.runtime)
        found = json.loads(done.stdout)
        return found["admitted"], found["sent"], found["refused"]

    with Reloadable(store, tmp_path, config=config) as daemon, daemon.served() as client:
        client.echo(b"before")
        refuse(daemon)
        for number in (1, 2):
            assert counts(daemon) == (1, 6, [{"reason": "max_clients", "clients": number}])
            daemon.reload_and_wait()
            assert counts(daemon) == (1, 6, [{"reason": "max_clients", "clients": number}])
            refuse(daemon)


def test_client_that_is_told_does_not_move(store: FdStore, tmp_path: Path) -> None:
    with (
        Reloadable(store, tmp_path, "--grace", "30") as daemon,
        daemon.served() as told,
        daemon.served() as client,
    ):
        done = gracectl("tell", told.name, directory=daemon.runtime)
        assert done.returncode == 0, done.stderr
        told.expect_farewell_alone()
        status, said = daemon.reload()
        old = daemon.follow()
        assert (status, said.rstrip()) == (
            0,
            f"reloaded: 1 client moved to the process with pid {daemon.pid},"
            " 1 remaining with the old one",
        )
        client.echo(b"moved")
        told.close()
        assert wait_for_end(old) == 79


def test_client_in_tls_does_not_move_and_new_ones_are_served(
    store: FdStore, tmp_path: Path
) -> None:
    config = tls.CONFIG + "[shutdown]\ngrace_period = 30\n"
    with Reloadable(store, tmp_path, listen=tls.LISTEN, config=config) as daemon:
        with tls.connect_tls(tls.place(daemon.addresses[0])) as client:
            client.echo(b"before")
            status, said = daemon.reload()
            old = daemon.follow()
            assert (status, said.rstrip()) == (
                0,
                f"reloaded: 0 clients moved to the process with pid {daemon.pid},"
                " 1 remaining with the old one",
            )
            with tls.connect_tls(tls.place(daemon.addresses[0])) as late:
                late.echo(b"late")
        assert wait_for_end(old) == 79


def test_stop_while_the_old_process_drains_ends_both(store: FdStore, tmp_path: Path) -> None:
    handler = ("--handler", "support.handlers:TellingHandler")
    with (
        Reloadable(store, tmp_path, *handler, "--grace", "30") as daemon,
        daemon.served() as client,
    ):
        client.echo(b"begun")
        assert daemon.reload()[0] == 0
        old = daemon.follow()
        client.expect_farewell_alone()
        daemon.signal(SIGTERM)
        assert daemon.wait() == 0
        client.close()
        assert wait_for_end(old) in {0, 79}


def with_hook(hook: str, body: str) -> str:
    """A module whose handler has a class method more."""
    method = f"    @classmethod\n    def {hook}(cls, given): {body}\n"
    return OWN.replace(" pass\n", "\n") + method


KILL = "import os; os.kill(os.getpid(), 9)"
FAILURES = {
    "import": ("import no_such_module\n", "No module named 'no_such_module'"),
    "syntax": ("class\n", "invalid syntax"),
    "configure": (with_hook("configure", "raise ValueError('not so')"), "not so"),
    "startup": (
        with_hook("startup", "raise ValueError('not so')"),
        "the hook startup of the handler has failed: ValueError: not so",
    ),
    "killed": (KILL, "the new process was killed by signal 9"),
    "killed as a daemon": (with_hook("startup", KILL), "the daemon died before it served"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_start_that_fails_changes_nothing(store: FdStore, tmp_path: Path, failure: str) -> None:
    text, reason = FAILURES[failure]
    with (
        Reloadable(store, tmp_path, "--handler", "own:Echo", library=OWN) as daemon,
        daemon.served() as client,
    ):
        daemon.tracebacks = True
        daemon.own.write_text(text)
        with Talking([client]) as talking:
            status, said = daemon.reload()
        assert talking.rounds
        _is_refused(daemon, status, said, reason)
        client.echo(b"still")
        # And when it is repaired:
        daemon.own.write_text(OWN)
        daemon.reload_and_wait()
        client.echo(b"moved")


def _is_refused(daemon: Reloadable, status: int, said: str, reason: str) -> None:
    assert status == 1
    assert said.startswith("gracectl: the reload has failed: ")
    assert reason in said
    assert said.count("\n") == 1
    line = said.removeprefix("gracectl: ").rstrip("\n")
    daemon.log.wait_for(f"<4>{re.escape(line)}$")
    daemon.store.wait_for("; the last reload failed: ")
    assert daemon.pid_file.read_text() == f"{daemon.pid}\n"
    said_by_others = {each.sender for each in daemon.store.messages}
    assert said_by_others <= {daemon.pid, daemon.command_pid}


def test_configuration_that_is_refused_changes_nothing(store: FdStore, tmp_path: Path) -> None:
    with Reloadable(store, tmp_path) as daemon, daemon.served() as client:
        daemon.config_file.write_text("[limits]\nmax_clients = -1\n")
        status, said = daemon.reload()
        _is_refused(daemon, status, said, f"{daemon.config_file}: limits.max_clients")
        client.echo(b"still")


def test_address_that_is_taken_changes_nothing(store: FdStore, tmp_path: Path) -> None:
    text = "[server]\nlisten = {}\n"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            Reloadable(store, tmp_path, listen=(), config=text.format('["127.0.0.1:0"]')) as daemon,
            daemon.served() as client,
        ):
            daemon.config_file.write_text(text.format(f'["{daemon.addresses[0]}", "{address}"]'))
            status, said = daemon.reload()
            _is_refused(daemon, status, said, f"cannot listen on {address}: Address already in use")
            client.echo(b"still")
            with daemon.served() as late:
                late.echo(b"late")


def test_address_that_needs_that_of_the_old_process_changes_nothing(
    store: FdStore, tmp_path: Path
) -> None:
    text = "[server]\nlisten = {}\n"
    with (
        Reloadable(store, tmp_path, listen=(), config=text.format('["127.0.0.1:0"]')) as daemon,
        daemon.served() as client,
    ):
        port = daemon.addresses[0].rpartition(":")[2]
        daemon.config_file.write_text(text.format(f'["0.0.0.0:{port}"]'))
        status, said = daemon.reload()
        _is_refused(daemon, status, said, "Address already in use")
        client.echo(b"still")
        with daemon.served() as late:
            late.echo(b"late")


def test_variable_of_another_process_is_not_believed(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        env = {"GRACED_RELOAD": f"pid=1 channel={theirs.fileno()}"}
        with Daemon(env=env, pass_fds=[theirs.fileno()]) as daemon, daemon.served() as client:
            client.echo(b"served")
