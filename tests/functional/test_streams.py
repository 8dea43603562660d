"""Stream handlers: callbacks on the I/O thread, the goodbye, and what they cannot break."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from signal import SIGTERM, SIGUSR2
from typing import Any

import pytest

from support import FAREWELL, PASS, FdStore, Graced, NotifySocket, settled
from support.process import environment
from support.streams import HERE

GAP = 0.1
"""Seconds of silence around a farewell."""


def plugin(name: str) -> tuple[str, str]:
    return ("--handler", f"{HERE}:{name}")


@pytest.mark.parametrize("name", ["Echo", "BufferedEcho"])
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
    ("code", "module"),
    [
        ("from graced.handlers.finder import find; find('support.streams:Echo', b'')", "asyncio"),
        ("import graced.app.service", "graced.loop.transport"),
    ],
)
def test_module_is_not_imported(code: str, module: str) -> None:
    """asyncio is not for a stream handler, and the transport not for the echo."""
    code = f"import sys, graced.server; {code}; print({module!r} in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, check=True, text=True
    )
    assert result.stdout == "False\n"


def test_handler_greets_and_finishes_in_its_own_words() -> None:
    with Graced(*plugin("Lines"), "--grace", "30") as graced, graced.connect() as client:
        assert client.recv_exactly(6) == b"hello\n"
        client.send(b"abc\nde")
        assert client.recv_exactly(4) == b"ABC\n"
        client.send(b"f\n")
        assert client.recv_exactly(4) == b"DEF\n"
        graced.signal(SIGTERM)
        assert client.recv_to_end() == b"goodbye\n"
        client.close()
        assert graced.wait() == 0


def test_declared_farewell_stands_alone_and_clients_are_served_after_it() -> None:
    with (
        Graced(*plugin("TellingEcho"), "--grace", "30") as graced,
        graced.served() as silent,
        graced.connect() as talking,
    ):
        talking.echo(b"hello")
        graced.signal(SIGTERM)
        for client in (silent, talking):
            client.expect_farewell_alone(FAREWELL)
        began = time.monotonic()
        talking.echo(b"again")
        assert time.monotonic() - began >= GAP
        talking.echo(b"and again")
        with graced.connect() as late:
            assert late.recv_to_end() == FAREWELL
        for client in (silent, talking):
            client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (2, 0)


def test_client_that_never_pauses_is_told() -> None:
    with Graced(*plugin("TellingEcho"), "--grace", "30") as graced, graced.connect() as client:
        client.echo(b"hello")
        graced.signal(SIGTERM)
        graced.log.wait_for("telling 1 client")
        received = b""
        while FAREWELL not in received:
            client.send(b"x")
            received = client.recv_exactly(1)
            if received != b"x":
                received += client.recv_exactly(len(FAREWELL) - 1)
        assert received == FAREWELL
        assert client.recv_exactly(1) == b"x"
        client.close()
        assert graced.wait() == 0


def test_configured_farewell_counts_for_a_handler_without_one() -> None:
    config = '[shutdown]\nfarewell = "BYE"'
    with (
        Graced(*plugin("Lines"), "--grace", "30", config=config) as graced,
        graced.connect() as client,
    ):
        client.recv_exactly(6)
        graced.signal(SIGTERM)
        client.expect_farewell_alone(b"BYE")
        client.close()
        assert graced.wait() == 0


def test_farewell_in_the_words_of_a_method() -> None:
    with (
        Graced(*plugin("SpeakingLines"), "--grace", "30") as graced,
        graced.connect() as client,
        graced.connect() as other,
    ):
        for each in (client, other):
            each.recv_exactly(6)
        client.send(b"a\nrest")
        client.recv_exactly(2)
        graced.signal(SIGTERM)
        client.expect_farewell_alone(b"bye, rest")
        assert other.recv_to_end() == b"goodbye\n"
        client.close()
        other.close()
        assert graced.wait() == 0


def test_answer_under_way_comes_before_the_goodbye() -> None:
    with Graced(*plugin("Slow"), "--grace", "30") as graced, graced.connect() as client:
        client.send(b"hello")
        graced.signal(SIGTERM)
        assert client.recv_to_end() == b"hello"
        client.close()
        assert graced.wait() == 0


def test_unsent_bytes_come_before_the_goodbye() -> None:
    with Graced(*plugin("Pouring"), "--grace", "30") as graced, graced.connect() as client:
        client.send(b"x" * 20)
        client.recv_exactly(1)
        graced.signal(SIGTERM)
        graced.log.wait_for("telling 1 client")
        assert len(client.recv_to_end()) == (20 << 20) - 1
        client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 0)


def test_deadline_ends_a_client_in_the_middle_of_an_answer() -> None:
    with Graced(*plugin("Pouring"), "--grace", "1") as graced, graced.connect() as client:
        client.send(b"x" * 20)
        client.recv_exactly(1)
        assert graced.stop() == 0
        assert graced.stopped[1:] == (0, 1)
        assert graced.stopped.seconds < 5


@pytest.mark.parametrize("number", [b"7", b"8", b"9"])
def test_exception_is_one_record_and_ends_one_client(number: bytes) -> None:
    with (
        Graced(*plugin("Failing")) as graced,
        graced.connect() as victim,
        graced.connect() as other,
    ):
        graced.tracebacks = True
        for client in (victim, other):
            client.echo(b"6")
        victim.send(number)
        if number == b"9":
            victim.echo(b"")
            victim.finish()
        victim.recv_to_end()
        graced.log.wait_for(f"^<3>the handler of {victim.name} failed: ValueError: seven")
        graced.log.wait_for(f"closing connection from {victim.name}: handler failed")
        other.echo(b"6")
        with graced.connect() as another:
            another.echo(b"6")
        assert graced.log.count("Traceback") == 1


def test_client_that_takes_nothing_is_not_read_and_is_closed_as_stalled() -> None:
    config = "[limits]\nstall_timeout = 1"
    with (
        Graced(*plugin("Echo"), config=config) as graced,
        graced.connect() as client,
    ):
        client.send_until_full()
        graced.log.wait_for(f"closing connection from {client.name}: stalled")


def test_idle_client_is_closed() -> None:
    config = "[limits]\nidle_timeout = 1"
    with Graced(*plugin("Echo"), config=config) as graced, graced.connect() as client:
        client.echo(b"hello")
        assert client.recv_to_end() == b""
        graced.log.wait_for(f"closing connection from {client.name}: idle")


def test_callback_that_blocks_is_named() -> None:
    with NotifySocket() as socket:
        env = {**socket.environment, "WATCHDOG_USEC": "1500000"}
        with Graced(*plugin("Stuck"), env=env) as graced, graced.connect() as client:
            client.send(b"2")
            place = graced.log.wait_for(
                rf"^<4>the handler {HERE}:Stuck makes all clients wait: .* return from (.*)$"
            )[1]
            assert place.startswith("Stuck.data_received, ")
            assert client.recv_exactly(4) == b"done"
            assert graced.stop() == 0
            assert graced.log.count("makes all clients wait") == 1


def test_hundred_clients_hear_the_end() -> None:
    with Graced(*plugin("Echo"), "--grace", "30") as graced, ExitStack() as stack:
        clients = [stack.enter_context(graced.connect()) for _ in range(100)]
        for client in clients:
            client.echo(b"hello")
        graced.signal(SIGTERM)
        for client in clients:
            assert client.recv_to_end() == b""
            client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (100, 0)


@pytest.mark.parametrize("name", ["CountingLines", "Lines"])
def test_restart_carries_state_and_unsent_bytes(name: str) -> None:
    movable = name == "CountingLines"
    with ExitStack() as stack:
        store = FdStore()
        stack.enter_context(store)

        def start(listen: str) -> Graced:
            passed = store.descriptors
            env = store.environment
            graced = Graced(*plugin(name), listen=listen, env=env, before=PASS, pass_fds=passed)
            return stack.enter_context(graced)

        first = start("127.0.0.1:0")
        talking = stack.enter_context(first.connect())
        silent = stack.enter_context(first.served())
        for client in (talking, silent):
            assert client.recv_exactly(6) == b"hello\n"
        talking.send(b"a\nb\n")
        talking.recv_exactly(8 if movable else 4)
        talking.send(b"half")
        assert settled(first.pid)
        first.signal(SIGUSR2)
        if not movable:
            assert silent.recv_to_end() == b"goodbye\n"
            # Half a line is unanswered: it is served until it is answered.
            talking.send(b" a line\n")
            assert talking.recv_to_end() == b"HALF A LINE\ngoodbye\n"
            silent.close()
            talking.close()
            assert first.wait() == 79
            return
        assert first.wait() == 79
        second = start(first.addresses[0])
        talking.send(b" a line\n")
        assert talking.recv_exactly(14) == b"3 half a line\n"
        silent.send(b"x\n")
        assert silent.recv_exactly(4) == b"1 x\n"
        second.signal(SIGTERM)
        for client in (talking, silent):
            assert client.recv_to_end() == b"goodbye\n"
            client.close()
        assert second.wait() == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_hooks(threads: int) -> None:
    """At a restart the hook `restored` speaks before any handler goes on, and only then."""
    config = f"[server]\nio_threads = {threads}\n"
    with ExitStack() as stack:
        store = FdStore()
        stack.enter_context(store)

        def start(listen: str) -> Graced:
            options: dict[str, Any] = {"before": PASS, "pass_fds": store.descriptors}
            env = store.environment
            graced = Graced(*plugin("Roll"), listen=listen, config=config, env=env, **options)
            return stack.enter_context(graced)

        first = start("127.0.0.1:0")
        first.log.wait_for("the roll is open")
        clients = [stack.enter_context(first.connect()) for _ in range(5)]
        for client in clients:
            client.echo(b"hello")
        first.signal(SIGUSR2)
        assert first.wait() == 79
        for client in clients:
            client.send(b"again")
        second = start(first.addresses[0])
        for client in clients:
            assert client.recv_exactly(12) == b"5 back\nagain"
            client.close()
        assert second.stop(SIGTERM) == 0
        second.log.wait_for("the roll is closed")


def test_successor_is_not_asked_for_the_state_of_the_class() -> None:
    """A client that was left to another protocol hears the goodbye; the others stay."""
    with ExitStack() as stack:
        store = FdStore()
        stack.enter_context(store)
        first = stack.enter_context(Graced(*plugin("Switching"), env=store.environment))
        (address,) = first.addresses
        stays, switches = (stack.enter_context(first.connect()) for _ in range(2))
        stays.echo(b"hello")
        switches.echo(b"switch")
        first.signal(SIGUSR2)
        assert switches.recv_to_end() == b""
        switches.close()
        assert first.wait() == 79
        assert not first.log.count("failed")
        passed: dict[str, Any] = {"before": PASS, "pass_fds": store.descriptors}
        env = store.environment
        second = Graced(*plugin("Switching"), listen=address, env=env, **passed)
        stack.enter_context(second)
        stays.echo(b"again")
