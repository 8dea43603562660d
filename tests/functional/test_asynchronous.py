"""asyncio handlers: coroutines, what they cannot break, and uvloop.

What holds for protocols of either kind is in `test_callbacks`.
"""

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

from functional.goodbyes import (
    IN_PARTS,
    stop_between_parts,
    stop_with_hundred_clients,
    talk_until_told,
)
from support import PASS, FdStore, Graced, run_graced, settled
from support.asynchronous import HERE, Counter
from support.process import environment

UVLOOP = pytest.mark.needs("module uvloop")
ON_UVLOOP = '[server]\nevent_loop = "uvloop"\n'
LOOPS = pytest.mark.parametrize(
    "loop",
    [pytest.param("", id="asyncio"), pytest.param(ON_UVLOOP, id="uvloop", marks=UVLOOP)],
)
"""What the configuration begins with."""
GAP = 0.1
"""Seconds of silence around a farewell."""


def plugin(name: str) -> tuple[str, str]:
    return ("--handler", f"{HERE}:{name}")


@pytest.mark.parametrize("name", ["Echo", "echo", "called", "partly"])
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


@LOOPS
def test_exception_of_a_coroutine_is_one_record_and_ends_one_client(loop: str) -> None:
    with (
        Graced(*plugin("failing"), config=loop) as graced,
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


def test_client_of_a_coroutine_that_never_pauses_is_told() -> None:
    config = '[shutdown]\nfarewell = "SHUTDOWN"'
    with (
        Graced(*plugin("echo"), "--grace", "30", config=config) as graced,
        graced.connect() as client,
    ):
        talk_until_told(graced, client)


@LOOPS
@pytest.mark.parametrize("name", ["Parts", "ExecutedParts", "parts"])
@pytest.mark.parametrize("config", ["", '[shutdown]\nfarewell = "SHUTDOWN"'], ids=["eof", "words"])
def test_goodbye_comes_after_an_answer_in_parts(name: str, config: str, loop: str) -> None:
    with (
        Graced(*plugin(name), "--grace", "30", config=loop + config) as graced,
        graced.connect() as client,
    ):
        stop_between_parts(graced, client)
        if config:
            client.expect_farewell_alone()
            client.send(b"again\n")
            assert client.recv_exactly(len(IN_PARTS)) == IN_PARTS
        else:
            assert client.recv_to_end() == b""
        client.close()
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


@LOOPS
@pytest.mark.parametrize(("name", "word"), [("stubborn", b"a\n"), ("Failing", b"block")])
def test_handler_cannot_hold_up_the_exit(name: str, word: bytes, loop: str) -> None:
    with (
        Graced(*plugin(name), "--grace", "0.5", config=loop) as graced,
        graced.connect() as client,
        graced.served() as other,
    ):
        client.send(word)
        graced.signal(SIGTERM)
        client.expect_end()
        other.recv_to_end()
        assert graced.wait() == 0
        if not loop:
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
    with Graced(*plugin("echo"), listen=address) as graced:
        stop_with_hundred_clients(graced)


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


# uvloop.


@UVLOOP
def test_coroutine_on_uvloop_hears_end_of_file() -> None:
    with Graced(*plugin("echo"), config=ON_UVLOOP) as graced, graced.connect() as client:
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
