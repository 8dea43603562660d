"""asyncio handlers: on a loop of their own, the goodbye, and what they cannot break."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from signal import SIGTERM, SIGUSR2
from typing import Any

import pytest

from support import FAREWELL, PASS, Client, FdStore, Graced, NotifySocket, run_graced, settled
from support.asynchronous import HERE, Counter, Flood
from support.process import environment

UVLOOP = pytest.mark.needs("module uvloop")
ON_UVLOOP = '[server]\nevent_loop = "uvloop"\n'
GAP = 0.1
"""Seconds of silence around a farewell."""


def plugin(name: str) -> tuple[str, str]:
    return ("--handler", f"{HERE}:{name}")


@pytest.mark.parametrize("name", ["Echo", "BufferedEcho", "echo", "called", "partly"])
def test_echo_is_served_and_hears_end_of_file(name: str, address: str) -> None:
    with Graced(*plugin(name), listen=address) as graced, graced.connect() as client:
        client.echo(b"hello")
        client.echo(b"x" * 100_000)
        graced.signal(SIGTERM)
        assert client.recv_to_end() == b""
        client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 0)
        graced.log.wait_for("closing connection from .*: at rest, 100005 bytes echoed")


@pytest.mark.parametrize(
    "code",
    [
        "import graced.app.service",
        "from graced.handlers.finder import find; find('support.handlers:TellingHandler', b'')",
        "from graced.handlers.finder import find; find('support.coroutine:handle', b'')",
    ],
)
def test_asyncio_is_not_imported_before_a_handler_needs_it(code: str) -> None:
    code = f"import sys, graced.server; {code}; print('asyncio' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, check=True, text=True
    )
    assert result.stdout == "False\n"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("plain_function", "is neither a graced.StreamProtocol nor a socketserver.BaseRequestHand"),
        ("Needy", "cannot be called as asyncio calls it, (): missing a required argument: 'owner'"),
        ("one_argument", "cannot be called as asyncio calls it, (reader, writer): too many pos"),
        ("Odd", "has an async data_received(), which nobody would run: asyncio calls ordinary met"),
    ],
)
def test_factory_that_cannot_be_called_is_refused(name: str, complaint: str) -> None:
    found = run_graced("--config", "/dev/null", *plugin(name), "--check-config")
    assert found.returncode == 78
    assert found.stderr.startswith(f"graced: handler '{HERE}:{name}' {complaint}"), found.stderr
    assert found.stderr.count("\n") == 1


# The end of a client.


def test_client_and_handler_end_connections() -> None:
    with Graced(*plugin("Lines")) as graced:
        with graced.connect() as client:
            assert client.recv_exactly(6) == b"hello\n"
            client.send(b"abc\nde")
            assert client.recv_exactly(4) == b"ABC\n"
            client.finish()
            assert client.recv_to_end() == b"goodbye de"
        graced.log.wait_for("closing connection from .*: closed by the client, 20 bytes echoed")
        with graced.connect() as client:
            assert client.recv_exactly(6) == b"hello\n"
            client.reset()
        graced.log.wait_for("closing connection from .*: reset by the client, 6 bytes echoed")


@pytest.mark.parametrize("name", ["Failing", "failing"])
def test_exception_is_one_record_and_ends_one_client(name: str) -> None:
    with (
        Graced(*plugin(name)) as graced,
        graced.connect() as victim,
        graced.connect() as other,
    ):
        graced.tracebacks = True
        for client in (victim, other):
            client.echo(b"hello")
        victim.send(b"data")
        assert victim.recv_to_end() == b""
        head = graced.log.wait_for("^<3>.*data is not nice")[0]
        assert victim.name in head
        graced.log.wait_for(f"closing connection from {victim.name}: handler failed, 5 bytes")
        other.echo(b"hello")
        assert graced.log.count("the handler of .* failed") == 1
        assert graced.log.count("^<3>.*Traceback") == 1
        other.close()
        assert graced.stop() == 0


def test_exception_of_a_timed_call_is_one_record() -> None:
    """As under asyncio the connection goes on."""
    with Graced(*plugin("Failing")) as graced, graced.connect() as client:
        graced.tracebacks = True
        client.send(b"later")
        graced.log.wait_for(f"^<3>.*the handler of {client.name} failed: .*later is not nice")
        client.echo(b"hello")
        assert graced.log.count("Traceback") == 1


def test_exception_of_connection_made_ends_the_client() -> None:
    with Graced(*plugin("Refusing")) as graced, graced.connect() as client:
        graced.tracebacks = True
        assert client.recv_to_end() == b""
        graced.log.wait_for("^<3>.*no client is nice")
        graced.log.wait_for(f"closing connection from {client.name}: handler failed, 0 bytes")
        assert graced.log.count("Traceback") == 1


def test_callback_that_exits_ends_neither_process_nor_loop() -> None:
    with (
        Graced(*plugin("Failing")) as graced,
        graced.connect() as client,
        graced.connect() as other,
    ):
        graced.tracebacks = True
        client.send(b"exit")
        assert client.recv_to_end() == b""
        graced.log.wait_for(f"^<3>.*the handler of {client.name} failed: .*SystemExit: 3")
        graced.log.wait_for(f"closing connection from {client.name}: handler failed, 0 bytes")
        other.echo(b"hello")
        assert graced.log.count("Traceback") == 1
        other.close()
        assert graced.stop() == 0


def test_coroutine_that_waits_for_more_than_comes_has_not_failed() -> None:
    with Graced(*plugin("exact")) as graced, graced.connect() as idle:
        with graced.connect() as client:
            client.echo(b"four")
            client.send(b"six")
            client.finish()
            assert client.recv_to_end() == b""
        graced.log.wait_for("closing connection from .*: closed by the client, 4 bytes echoed")
        idle.echo(b"four")
        graced.signal(SIGTERM)
        assert idle.recv_to_end() == b""
        assert graced.wait() == 0
        assert not graced.log.count("failed")


# The goodbye.


def test_handler_finishes_in_its_own_words() -> None:
    with Graced(*plugin("Lines"), "--grace", "30") as graced, graced.connect() as client:
        assert client.recv_exactly(6) == b"hello\n"
        client.send(b"abc\n")
        assert client.recv_exactly(4) == b"ABC\n"
        graced.signal(SIGTERM)
        assert client.recv_to_end() == b"goodbye "
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 0)


def test_half_a_request_is_not_at_rest() -> None:
    with Graced(*plugin("Lines"), "--grace", "30") as graced, graced.connect() as client:
        assert client.recv_exactly(6) == b"hello\n"
        client.send(b"ab")
        graced.signal(SIGTERM)
        graced.log.wait_for("telling 1 client")
        with graced.connect() as late:
            assert late.recv_to_end() in {b"", b"hello\ngoodbye "}
        client.send(b"c\n")
        assert client.recv_to_end() == b"ABC\ngoodbye "
        assert graced.wait() == 0


@pytest.mark.parametrize("name", ["Polite", "Echo"])
def test_farewell_stands_alone_and_clients_are_served_after_it(name: str, address: str) -> None:
    config = "[shutdown]\nfarewell_gap = 0.5\n" + 'farewell = "SHUTDOWN"' * (name == "Echo")
    with (
        Graced(*plugin(name), "--grace", "30", listen=address, config=config) as graced,
        graced.served() as silent,
        graced.connect() as client,
    ):
        client.echo(b"hello")
        graced.signal(SIGTERM)
        for each in (silent, client):
            each.expect_farewell_alone()
            sent_at = time.monotonic()
            each.send(b"still there?")
            assert each.recv_exactly(12) == b"still there?"
            assert time.monotonic() - sent_at >= 0.5
            each.echo(b"yes")
            each.finish()
            each.expect_end()
        assert graced.wait() == 0


@pytest.mark.parametrize("name", ["Polite", "echo"])
def test_client_that_never_pauses_is_told(name: str) -> None:
    config = '[shutdown]\nfarewell = "SHUTDOWN"'
    with (
        Graced(*plugin(name), "--grace", "30", config=config) as graced,
        graced.connect() as client,
    ):
        client.echo(b"hello")
        graced.signal(SIGTERM)
        for number in range(1_000_000):
            message = b"%7d" % number
            client.send(message)
            heard = client.recv()
            if heard != message:
                break
        assert heard == FAREWELL
        assert client.recv_exactly(7) == message
        client.close()
        assert graced.wait() == 0


def test_farewell_in_the_words_of_a_method() -> None:
    with (
        Graced(*plugin("Named"), "--grace", "30") as graced,
        graced.served() as silent,
        graced.connect() as client,
    ):
        client.echo(b"Joe")
        graced.signal(SIGTERM)
        assert client.recv() == b"goodbye Joe"
        assert silent.recv_to_end() == b""
        client.close()
        assert graced.wait() == 0


IN_PARTS = b"part 0\npart 1\npart 2\n"


def stop_between_parts(graced: Graced, client: Client) -> None:
    """The signal comes when the client has the first part of its answer."""
    client.send(b"hello\n")
    heard = client.recv_exactly(7)
    graced.signal(SIGTERM)
    assert heard + client.recv_exactly(len(IN_PARTS) - len(heard)) == IN_PARTS


@pytest.mark.parametrize("name", ["Parts", "ExecutedParts", "parts"])
@pytest.mark.parametrize("config", ["", '[shutdown]\nfarewell = "SHUTDOWN"'], ids=["eof", "words"])
def test_goodbye_comes_after_an_answer_in_parts(name: str, config: str) -> None:
    with (
        Graced(*plugin(name), "--grace", "30", config=config) as graced,
        graced.connect() as client,
    ):
        stop_between_parts(graced, client)
        if config:
            client.expect_farewell_alone()
        else:
            assert client.recv_to_end() == b""
        client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 0)


def test_unsent_bytes_come_before_the_goodbye() -> None:
    with Graced(*plugin("Flood"), "--grace", "30") as graced, graced.connect() as client:
        client.send(b"a")
        assert client.recv_exactly(1) == b"x"
        graced.signal(SIGTERM)
        graced.log.wait_for("telling 1 client")
        assert len(client.recv_to_end()) == Flood.SIZE - 1
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 0)


# The deadline.


def test_coroutine_is_cancelled_at_the_deadline_and_not_before() -> None:
    with Graced(*plugin("last_words"), "--grace", "1") as graced, graced.served() as client:
        graced.signal(SIGTERM)
        assert client.recv_to_end() == b""
        assert graced.wait() == 0
        lines = graced.log.lines
        assert lines.index("cancelled") > max(
            number for number, line in enumerate(lines) if "1 client remaining" in line
        )
        assert graced.stopped.closed == 1
        assert 1.0 <= graced.stopped.seconds < 1.5


@pytest.mark.parametrize(("name", "word"), [("stubborn", b"a\n"), ("Failing", b"block")])
def test_handler_cannot_hold_up_the_exit(name: str, word: bytes) -> None:
    with (
        Graced(*plugin(name), "--grace", "0.5") as graced,
        graced.connect() as client,
        graced.served() as other,
    ):
        client.send(word)
        graced.signal(SIGTERM)
        client.expect_end()
        other.recv_to_end()
        assert graced.wait() == 0
        graced.log.wait_for("exiting without waiting longer for . handler")
        assert graced.stopped.closed >= 1
        assert graced.stopped.seconds < 1.0


def test_task_of_the_service_does_not_outlive_the_last_client() -> None:
    with Graced(*plugin("Tasks")) as graced, graced.served() as client:
        client.close()
        assert graced.stop() == 0
        assert graced.stopped.seconds < 1.0
        assert not graced.log.count("destroyed|failed")


def test_hundred_clients_hear_the_end(address: str) -> None:
    with Graced(*plugin("echo"), listen=address) as graced, ExitStack() as stack:
        clients = [stack.enter_context(graced.connect()) for _ in range(100)]
        for client in clients:
            client.echo(b"hello")
        graced.signal(SIGTERM)
        for client in clients:
            assert client.recv_to_end() == b""
        assert graced.wait() == 0
        assert graced.stopped[1:] == (100, 0)


# Limits and the watchdog.


def test_client_that_takes_nothing_is_closed_as_stalled(address: str) -> None:
    config = "[limits]\nstall_timeout = 1"
    with Graced(*plugin("Flood"), listen=address, config=config) as graced:
        with graced.connect() as client:
            client.send(b"a")
            graced.log.wait_for("closing connection from .*: stalled")
        with graced.served() as client:
            client.close()


@pytest.mark.parametrize("name", ["Echo", "echo"])
def test_idle_client_is_closed(name: str, address: str) -> None:
    config = "[limits]\nidle_timeout = 0.5"
    with Graced(*plugin(name), listen=address, config=config) as graced:
        with graced.connect() as client:
            client.echo(b"hello")
            began = time.monotonic()
            assert client.recv_to_end() == b""
            assert time.monotonic() - began >= 0.4
        graced.log.wait_for("closing connection from .*: idle, 5 bytes echoed")


def test_client_above_the_limit_is_refused() -> None:
    with (
        Graced(*plugin("Echo"), config="[limits]\nmax_clients = 1") as graced,
        graced.connect() as client,
    ):
        client.echo(b"hello")
        with graced.connect() as other:
            assert other.recv_to_end() == b""
        client.echo(b"hello")


def test_callback_that_blocks_is_named() -> None:
    with NotifySocket() as systemd:
        env = {**systemd.environment, "WATCHDOG_USEC": "1000000"}
        with Graced(*plugin("Failing"), "--grace", "0.2", env=env) as graced:
            with graced.connect() as client:
                client.send(b"block")
                line = graced.log.wait_for("the handler .*:Failing makes all clients wait: .*$")[0]
                assert "Failing.data_received, " in line
            assert graced.stop() == 0


# uvloop.


@UVLOOP
@pytest.mark.parametrize("name", ["Echo", "BufferedEcho", "echo"])
def test_echo_on_uvloop_hears_end_of_file(name: str) -> None:
    with Graced(*plugin(name), config=ON_UVLOOP) as graced, graced.connect() as client:
        client.echo(b"hello")
        client.echo(b"x" * 100_000)
        with graced.connect() as other:
            other.echo(b"hello")
        graced.log.wait_for("closing connection from .*: closed by the client, 5 bytes echoed")
        graced.signal(SIGTERM)
        assert client.recv_to_end() == b""
        client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 0)
        graced.log.wait_for("closing connection from .*: at rest, 100005 bytes echoed")


@UVLOOP
@pytest.mark.parametrize("name", ["Parts", "ExecutedParts", "parts"])
def test_goodbye_on_uvloop_comes_after_an_answer_in_parts(name: str) -> None:
    config = ON_UVLOOP + '[shutdown]\nfarewell = "SHUTDOWN"'
    with (
        Graced(*plugin(name), "--grace", "30", config=config) as graced,
        graced.connect() as client,
    ):
        stop_between_parts(graced, client)
        client.expect_farewell_alone()
        client.send(b"again\n")
        assert client.recv_exactly(len(IN_PARTS)) == IN_PARTS
        client.close()
        assert graced.wait() == 0


@UVLOOP
@pytest.mark.parametrize("name", ["Failing", "failing"])
def test_exception_on_uvloop_is_one_record(name: str) -> None:
    with Graced(*plugin(name), config=ON_UVLOOP) as graced, graced.connect() as client:
        graced.tracebacks = True
        client.echo(b"hello")
        client.send(b"data")
        assert client.recv_to_end() == b""
        graced.log.wait_for(f"closing connection from {client.name}: handler failed, 5 bytes")
        assert graced.log.count("^<3>.*Traceback") == 1
        assert graced.log.count(f"the handler of {client.name} failed: .*data is not nice") == 1


@UVLOOP
def test_client_on_uvloop_that_takes_nothing_is_closed_as_stalled() -> None:
    config = ON_UVLOOP + "[limits]\nstall_timeout = 1"
    with Graced(*plugin("Flood"), config=config) as graced, graced.connect() as client:
        client.send(b"a")
        graced.log.wait_for("closing connection from .*: stalled")


@UVLOOP
@pytest.mark.parametrize(("name", "word"), [("stubborn", b"a\n"), ("Failing", b"block")])
def test_handler_on_uvloop_cannot_hold_up_the_exit(name: str, word: bytes) -> None:
    with (
        Graced(*plugin(name), "--grace", "0.5", config=ON_UVLOOP) as graced,
        graced.connect() as client,
        graced.served() as other,
    ):
        client.send(word)
        graced.signal(SIGTERM)
        client.expect_end()
        other.recv_to_end()
        assert graced.wait() == 0
        assert graced.stopped.closed >= 1
        assert graced.stopped.seconds < 1.0


@UVLOOP
def test_uvloop_that_cannot_serve_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "graced.toml"
    config.write_text(ON_UVLOOP + "[limits]\nmax_clients = 400_000")
    socket = tmp_path / "socket"
    for options, complaint in (
        ((), "limits.max_clients = 400000 needs 800320 descriptors"),
        (
            ("--listen", f"unix:{socket}"),
            'server.event_loop = "uvloop" serves no Unix sockets,'
            f" but server.listen has unix:{socket}",
        ),
    ):
        found = run_graced("--config", str(config), *plugin("Echo"), *options, "--check-config")
        assert found.returncode == 78
        assert found.stderr.startswith(f"graced: {complaint}"), found.stderr


def test_uvloop_that_is_not_installed_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "graced.toml"
    config.write_text('[server]\nevent_loop = "uvloop"\n')
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['uvloop'] = None\n")
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    for name, status in (("Echo", 78), ("echo-threaded", 0)):
        handler = plugin(name) if name == "Echo" else ("--handler", name)
        found = run_graced(
            "--config", str(config), *handler, "--check-config", env={"PYTHONPATH": path}
        )
        assert found.returncode == status, found.stderr
        assert found.stderr.count("which is not installed (Debian: python3-uvloop)") == (status > 0)


# The restart.


@pytest.mark.parametrize("loop", ["asyncio", pytest.param("uvloop", marks=UVLOOP)])
def test_restart_carries_state_and_unsent_bytes(loop: str) -> None:
    """Of uvloop nobody learns the unsent bytes: that client stays, and is told."""
    fast = loop == "uvloop"
    store = FdStore()
    with store, ExitStack() as stack:
        config = f'[server]\nevent_loop = "{loop}"\n[handler]\nfirst = 7'

        def start(listen: str) -> Graced:
            options: dict[str, Any] = {"before": PASS, "pass_fds": store.descriptors}
            env = store.environment
            return Graced(*plugin("Counter"), listen=listen, config=config, env=env, **options)

        first = stack.enter_context(start("127.0.0.1:0"))
        first.log.wait_for("startup True .'first': 7.")
        clients = [stack.enter_context(first.connect()) for _ in range(3)]
        for number in (1, 2):
            for client in clients[:2]:
                client.send(b"a")
                assert client.recv_exactly(2) == b"%d\n" % number
        flooded = clients[2]
        flooded.send(b"flood")
        head = flooded.recv_exactly(1)
        assert settled(first.pid)
        first.signal(SIGUSR2)
        if fast:
            # Not before: the client would take its bytes in time.
            first.log.wait_for("handing over 2 clients to the next start, 1 remaining")
            assert len(flooded.recv_to_end()) == Counter.SIZE - 1
            clients.remove(flooded)
        assert first.wait() == 79
        with start(first.addresses[0]) as second:
            second.log.wait_for(f"restored {len(clients)}")
            for client in clients[:2]:
                client.send(b"a")
                assert client.recv_exactly(2) == b"3\n"
            if not fast:
                flood = head + flooded.recv_exactly(Counter.SIZE - 1)
                assert flood == bytes(range(256)) * (Counter.SIZE // 256)
                flooded.send(b"a")
                assert flooded.recv_exactly(2) == b"2\n"
            new = stack.enter_context(second.connect())
            new.send(b"a")
            assert new.recv_exactly(2) == b"1\n"
            second.signal(SIGTERM)
            for client in [*clients, new]:
                assert client.recv_to_end() == b""
            assert second.wait() == 0
            assert second.stopped[1:] == (len(clients) + 1, 0)
            second.log.wait_for("shutdown 0")


@UVLOOP
def test_unix_client_is_told_at_once_by_a_start_on_uvloop(tmp_path: Path) -> None:
    fast = ON_UVLOOP
    store = FdStore()
    with store, ExitStack() as stack:

        def start(listen: str, config: str) -> Graced:
            options: dict[str, Any] = {"before": PASS, "pass_fds": store.descriptors}
            env = store.environment
            return Graced(*plugin("Counter"), listen=listen, config=config, env=env, **options)

        first = stack.enter_context(start(f"unix:{tmp_path}/socket", "[handler]\nfirst = 7"))
        client = stack.enter_context(first.connect())
        client.send(b"a")
        assert client.recv_exactly(2) == b"1\n"
        first.signal(SIGUSR2)
        assert first.wait() == 79
        with start("127.0.0.1:0", fast + "[handler]\nfirst = 7") as second:
            assert client.recv_to_end() == b""
            second.log.wait_for("^<4>.*turned away: uvloop serves no Unix sockets")
            assert second.stop() == 0


@pytest.mark.parametrize("name", ["Echo", "echo", "Unsaved"])
def test_client_whose_handler_cannot_be_saved_is_told_at_a_restart(name: str) -> None:
    with FdStore() as store:
        env = store.environment
        with (
            Graced(*plugin(name), "--grace", "30", env=env, before=PASS) as graced,
            graced.connect() as client,
        ):
            graced.tracebacks = name == "Unsaved"
            client.send(b"1")
            client.recv()
            graced.signal(SIGUSR2)
            assert client.recv_to_end() == b""
            assert graced.wait() == 79
            assert graced.stopped[1:] == (1, 0)
            assert graced.log.count("nothing to save") == 3 * (name == "Unsaved")
