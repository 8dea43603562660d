"""Handlers with callbacks: one contract, on the I/O thread, on asyncio's loop and on uvloop's."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from signal import SIGTERM, SIGUSR2
from typing import Any

import pytest

from functional.goodbyes import (
    stop_between_parts,
    stop_with_hundred_clients,
    talk_until_told,
)
from support import FAREWELL, PASS, FdStore, Graced, NotifySocket, settled
from support.kinds import HERE, Flood

KINDS = ["stream", "asyncio", pytest.param("uvloop", marks=pytest.mark.needs("module uvloop"))]
GAP = 0.1
"""Seconds of silence around a farewell."""
Start = Callable[..., Graced]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def start(kind: str) -> Start:
    """Start a handler of the kind; the arguments are the handler and those of `Graced`."""

    def made(name: str, *options: str, config: str = "", env: Any = None, **more: Any) -> Graced:
        chosen = {"KIND": "stream" if kind == "stream" else "asyncio"}
        if kind == "uvloop":
            config = '[server]\nevent_loop = "uvloop"\n' + config
        handler = ("--handler", f"{HERE}:{name}")
        return Graced(*handler, *options, config=config, env=chosen | (env or {}), **more)

    return made


@pytest.mark.parametrize("name", ["Echo", "BufferedEcho"])
def test_echo_is_served_and_hears_end_of_file(start: Start, name: str) -> None:
    with start(name) as graced, graced.connect() as client:
        client.echo(b"hello")
        client.echo(b"x" * 100_000)
        graced.signal(SIGTERM)
        assert client.recv_to_end() == b""
        client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 0)
        graced.log.wait_for("closing connection from .*: at rest, 100005 bytes echoed")


@pytest.mark.parametrize("kind", ["stream", "asyncio"])
@pytest.mark.parametrize("name", ["Echo", "BufferedEcho"])
def test_unix_client_hears_end_of_file(start: Start, name: str, tmp_path: Any) -> None:
    with start(name, listen=f"unix:{tmp_path}/socket") as graced, graced.connect() as client:
        client.echo(b"hello")
        graced.signal(SIGTERM)
        assert client.recv_to_end() == b""
        client.close()
        assert graced.wait() == 0
        graced.log.wait_for("closing connection from .*: at rest, 5 bytes echoed")


# The end of a client.


def test_client_and_handler_end_connections(start: Start, kind: str) -> None:
    with start("Lines") as graced:
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
        # uvloop does not say how a connection has ended.
        how = "closed" if kind == "uvloop" else "reset"
        graced.log.wait_for(f"closing connection from .*: {how} by the client, 6 bytes echoed")


@pytest.mark.parametrize("word", [b"data", b"exit", b"end"])
def test_exception_is_one_record_and_ends_one_client(start: Start, word: bytes) -> None:
    with (
        start("Failing") as graced,
        graced.connect() as victim,
        graced.connect() as other,
    ):
        graced.tracebacks = True
        for client in (victim, other):
            client.echo(b"hello")
        victim.send(word)
        if word == b"end":
            victim.echo(b"")
            victim.finish()
        victim.recv_to_end()
        graced.log.wait_for(f"^<3>the handler of {victim.name} failed: .*data is not nice")
        graced.log.wait_for(f"closing connection from {victim.name}: handler failed, [58] bytes")
        other.echo(b"hello")
        with graced.connect() as another:
            another.echo(b"hello")
        assert graced.log.count("the handler of .* failed") == 1
        assert graced.log.count("Traceback") == 1
        other.close()
        assert graced.stop() == 0


def test_exception_of_connection_made_ends_the_client(start: Start) -> None:
    with start("Refusing") as graced, graced.connect() as client:
        graced.tracebacks = True
        assert client.recv_to_end() == b""
        graced.log.wait_for("^<3>.*data is not nice")
        graced.log.wait_for(f"closing connection from {client.name}: handler failed, 0 bytes")
        assert graced.log.count("Traceback") == 1


def test_exception_of_a_timed_call_is_one_record(start: Start, kind: str) -> None:
    """Under asyncio the connection goes on, and so it does here."""
    with start("Failing") as graced, graced.connect() as client:
        graced.tracebacks = True
        client.echo(b"later")
        graced.log.wait_for(f"^<3>.*the handler of {client.name} failed: .*later is not nice")
        if kind == "stream":
            assert client.recv_to_end() == b""
            graced.log.wait_for(f"closing connection from {client.name}: handler failed")
        else:
            client.echo(b"hello")
        assert graced.log.count("Traceback") == 1


# The goodbye.


def test_handler_finishes_in_its_own_words(start: Start) -> None:
    with start("Lines", "--grace", "30") as graced, graced.connect() as client:
        assert client.recv_exactly(6) == b"hello\n"
        client.send(b"abc\n")
        assert client.recv_exactly(4) == b"ABC\n"
        graced.signal(SIGTERM)
        assert client.recv_to_end() == b"goodbye "
        client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 0)


def test_half_a_request_is_not_at_rest(start: Start) -> None:
    with start("Lines", "--grace", "30") as graced, graced.connect() as client:
        assert client.recv_exactly(6) == b"hello\n"
        client.send(b"ab")
        graced.signal(SIGTERM)
        graced.log.wait_for("telling 1 client")
        with graced.connect() as late:
            assert late.recv_to_end() in {b"", b"hello\ngoodbye "}
        client.send(b"c\n")
        assert client.recv_to_end() == b"ABC\ngoodbye "
        client.close()
        assert graced.wait() == 0


@pytest.mark.parametrize("name", ["TellingEcho", "Echo"])
def test_farewell_stands_alone_and_clients_are_served_after_it(start: Start, name: str) -> None:
    config = "[shutdown]\nfarewell_gap = 0.5\n" + 'farewell = "SHUTDOWN"' * (name == "Echo")
    with (
        start(name, "--grace", "30", config=config) as graced,
        graced.served() as silent,
        graced.connect() as talking,
    ):
        talking.echo(b"hello")
        graced.signal(SIGTERM)
        for client in (silent, talking):
            client.expect_farewell_alone(FAREWELL)
            sent_at = time.monotonic()
            client.send(b"still there?")
            assert client.recv_exactly(12) == b"still there?"
            assert time.monotonic() - sent_at >= 0.5
            client.echo(b"yes")
        with graced.connect() as late:
            assert late.recv_to_end() == FAREWELL
        for client in (silent, talking):
            client.finish()
            client.expect_end()
            client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (2, 0)


def test_client_that_never_pauses_is_told(start: Start) -> None:
    with start("TellingEcho", "--grace", "30") as graced, graced.connect() as client:
        talk_until_told(graced, client)


def test_farewell_in_the_words_of_a_method(start: Start) -> None:
    with (
        start("Named", "--grace", "30") as graced,
        graced.served() as silent,
        graced.connect() as client,
    ):
        client.echo(b"Joe")
        graced.signal(SIGTERM)
        client.expect_farewell_alone(b"goodbye Joe")
        assert silent.recv_to_end() == b""
        for each in (silent, client):
            each.close()
        assert graced.wait() == 0


@pytest.mark.parametrize("config", ["", '[shutdown]\nfarewell = "SHUTDOWN"'], ids=["eof", "words"])
def test_goodbye_comes_after_an_answer_in_parts(start: Start, config: str) -> None:
    with start("Parts", "--grace", "30", config=config) as graced, graced.connect() as client:
        stop_between_parts(graced, client)
        if config:
            client.expect_farewell_alone(FAREWELL)
        else:
            assert client.recv_to_end() == b""
        client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 0)


def test_unsent_bytes_come_before_the_goodbye(start: Start) -> None:
    with start("Flood", "--grace", "30") as graced, graced.connect() as client:
        client.send(b"a")
        assert client.recv_exactly(1) == b"x"
        graced.signal(SIGTERM)
        graced.log.wait_for("telling 1 client")
        assert len(client.recv_to_end()) == Flood.SIZE - 1
        client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 0)


def test_deadline_ends_a_client_in_the_middle_of_an_answer(start: Start) -> None:
    with start("Flood", "--grace", "1") as graced, graced.connect() as client:
        client.send(b"a")
        client.recv_exactly(1)
        assert graced.stop() == 0
        assert graced.stopped[1:] == (0, 1)
        assert graced.stopped.seconds < 1.5


def test_hundred_clients_hear_the_end(start: Start) -> None:
    with start("Echo", "--grace", "30") as graced:
        stop_with_hundred_clients(graced)


# Limits and the watchdog.


@pytest.mark.parametrize("name", ["Flood", "Echo"])
def test_client_that_takes_nothing_is_closed_as_stalled(start: Start, kind: str, name: str) -> None:
    """A stream handler that leaves `pause_writing` to graced is not read meanwhile."""
    if name == "Echo" and kind != "stream":
        name = "Flood"
    with start(name, config="[limits]\nstall_timeout = 1") as graced:
        with graced.connect() as client:
            if name == "Echo":
                client.send_until_full()
            else:
                client.send(b"a")
            graced.log.wait_for(f"closing connection from {client.name}: stalled")
        with graced.served() as client:
            client.close()


def test_idle_client_is_closed(start: Start) -> None:
    with start("Echo", config="[limits]\nidle_timeout = 0.5") as graced:
        with graced.connect() as client:
            client.echo(b"hello")
            began = time.monotonic()
            assert client.recv_to_end() == b""
            assert time.monotonic() - began >= 0.4
        graced.log.wait_for("closing connection from .*: idle, 5 bytes echoed")


def test_client_above_the_limit_is_refused(start: Start) -> None:
    with (
        start("Echo", config="[limits]\nmax_clients = 1") as graced,
        graced.connect() as client,
    ):
        client.echo(b"hello")
        with graced.connect() as other:
            assert other.recv_to_end() == b""
        client.echo(b"hello")


def test_callback_that_blocks_is_named(start: Start) -> None:
    with NotifySocket() as systemd:
        env = {**systemd.environment, "WATCHDOG_USEC": "1000000"}
        with start("Failing", "--grace", "0.2", env=env) as graced:
            with graced.connect() as client:
                client.send(b"block")
                line = graced.log.wait_for(
                    f"^<4>the handler {HERE}:Failing makes all clients wait: .*$"
                )[0]
                assert "Failing.data_received, " in line
            assert graced.stop() == 0
            assert graced.log.count("makes all clients wait") == 1


# The restart.


def test_half_a_request_is_carried_over_a_restart(start: Start, store: FdStore, kind: str) -> None:
    with ExitStack() as stack:
        passed: dict[str, Any] = {"before": PASS}
        first = stack.enter_context(start("MovableLines", env=store.environment, **passed))
        talking = stack.enter_context(first.connect())
        silent = stack.enter_context(first.served())
        talking.send(b"a\nhalf")
        assert talking.recv_exactly(2) == b"A\n"
        assert settled(first.pid)
        first.signal(SIGUSR2)
        assert first.wait() == 79
        passed |= {"env": store.environment, "pass_fds": store.descriptors}
        second = stack.enter_context(start("MovableLines", listen=first.addresses[0], **passed))
        talking.send(b" a line\n")
        assert talking.recv_exactly(12) == b"HALF A LINE\n"
        silent.send(b"x\n")
        assert silent.recv_exactly(2) == b"X\n"
        second.signal(SIGTERM)
        for client in (talking, silent):
            assert client.recv_to_end() == b"goodbye "
            client.close()
        assert second.wait() == 0


def test_client_whose_handler_cannot_be_saved_is_told_at_a_restart(
    start: Start, store: FdStore
) -> None:
    with (
        start("Lines", "--grace", "30", env=store.environment, before=PASS) as graced,
        graced.connect() as client,
        graced.connect() as silent,
    ):
        for each in (client, silent):
            assert each.recv_exactly(6) == b"hello\n"
        client.send(b"a\n")
        assert client.recv_exactly(2) == b"A\n"
        client.send(b"half")
        assert settled(graced.pid)
        graced.signal(SIGUSR2)
        assert silent.recv_to_end() == b"goodbye "
        # Half a line is unanswered: it is served until it is answered.
        client.send(b" a line\n")
        assert client.recv_to_end() == b"HALF A LINE\ngoodbye "
        for each in (client, silent):
            each.close()
        assert graced.wait() == 79
        assert graced.stopped[1:] == (2, 0)
