"""Clients that wait for a free handler thread: watched, counted, told, handed over."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from pathlib import Path
from signal import SIGTERM, SIGUSR1, SIGUSR2
from typing import Any

import pytest

from functional.foreign import QUICK
from strangers.gate import VARIABLE, Gate
from support import FAREWELL, PASS, PATIENCE, Client, FdStore, Graced

KINDS = pytest.mark.parametrize("kind", ["tcp", "unix"])
HANDLERS = pytest.mark.parametrize("handler", ["support.movable:CountingHandler", "echo-threaded"])
ONE_THREAD = "[limits]\nmax_handler_threads = 1\nmax_clients = 3\n"
FULL = "<4>no handler thread is free of 1,"


def address(kind: str, directory: Path) -> str:
    return "127.0.0.1:0" if kind == "tcp" else f"unix:{directory}/socket"


def status(graced: Graced) -> str:
    count = graced.log.count("<6>serving: ")
    graced.signal(SIGUSR1)
    return graced.log.wait_for(r"<6>serving: (.*)$", count + 1)[1]


def wait_for_status(graced: Graced, text: str) -> None:
    """The server hears of a client's bytes a moment after they were sent."""
    give_up = time.monotonic() + PATIENCE
    while text not in (found := status(graced)):
        assert time.monotonic() < give_up, found


def first_of(graced: Graced, stack: ExitStack) -> Client:
    client = stack.enter_context(graced.connect())
    client.send(b"?")
    assert len(client.recv()) == 1
    return client


@KINDS
@HANDLERS
def test_clients_that_hang_up_make_room(tmp_path: Path, kind: str, handler: str) -> None:
    options = ("--handler", handler)
    with (
        Graced(*options, listen=address(kind, tmp_path), config=ONE_THREAD) as graced,
        ExitStack() as stack,
    ):
        first = first_of(graced, stack)
        for _ in range(3):
            impatient = [graced.connect() for _ in range(2)]
            for client in impatient:
                client.send(b"?")
            wait_for_status(graced, "3 clients now")
            wait_for_status(graced, "2 clients waiting for a thread")
            for client in impatient:
                client.close()
            wait_for_status(graced, "1 client now")
        assert graced.log.count(FULL) == 1
        patient = stack.enter_context(graced.connect())
        patient.send(b"?")
        first.close()
        assert len(patient.recv()) == 1
        assert not graced.log.count("max_clients")


def test_client_that_has_sent_end_of_file_is_answered() -> None:
    options = ("--handler", "echo-threaded")
    with Graced(*options, config=ONE_THREAD) as graced, ExitStack() as stack:
        first = first_of(graced, stack)
        client = stack.enter_context(graced.connect())
        client.send(b"the only request")
        client.finish()
        wait_for_status(graced, "1 client now, 2 so far")
        first.close()
        assert client.recv_to_end() == b"the only request"
        wait_for_status(graced, "0 clients now")


def test_waiting_client_is_not_idle() -> None:
    """The client that has the thread is idle, and closed; the other is served then."""
    config = f"{ONE_THREAD}idle_timeout = 1\n"
    options = ("--handler", "echo-threaded")
    with Graced(*options, config=config) as graced, ExitStack() as stack:
        first = first_of(graced, stack)
        waiting = stack.enter_context(graced.connect())
        waiting.send(b"hello")
        assert first.recv_to_end() == b""
        assert waiting.recv_exactly(5) == b"hello"


@KINDS
def test_stop_tells_and_answers(tmp_path: Path, kind: str) -> None:
    """One declares no farewell: the request is answered first."""
    options = ("--handler", "support.handlers:TutorialHandler", "--grace", "30")
    with (
        Graced(*options, listen=address(kind, tmp_path), config=ONE_THREAD) as graced,
        ExitStack() as stack,
    ):
        first_of(graced, stack)
        waiting, silent = (stack.enter_context(graced.connect()) for _ in range(2))
        waiting.send(b"hello")
        wait_for_status(graced, "1 client waiting for a thread")
        graced.signal(SIGTERM)
        assert waiting.recv_to_end() == b"hello"
        assert silent.recv_to_end() == b""
        for client in (waiting, silent):
            client.close()
        stack.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (3, 0)


def test_stop_with_a_declared_farewell() -> None:
    options = ("--handler", "support.handlers:TellingHandler", "--grace", "30")
    with Graced(*options, config=ONE_THREAD) as graced, ExitStack() as stack:
        first = first_of(graced, stack)
        waiting = stack.enter_context(graced.connect())
        waiting.send(b"hello")
        wait_for_status(graced, "1 client waiting for a thread")
        graced.signal(SIGTERM)
        for client in (first, waiting):
            client.expect_farewell_alone()
        first.close()
        assert waiting.recv_exactly(5) == b"hello"
        waiting.close()
        assert graced.wait() == 0


def test_deadline_tells() -> None:
    options = ("--handler", "support.handlers:StubbornHandler", "--grace", "1")
    declared = f"{ONE_THREAD}[shutdown]\nfarewell = 'SHUTDOWN'\n"
    for config, words in ((ONE_THREAD, b""), (declared, FAREWELL)):
        with Graced(*options, config=config) as graced, ExitStack() as stack:
            first_of(graced, stack)
            waiting = stack.enter_context(graced.connect())
            waiting.send(b"hello")
            wait_for_status(graced, "1 client waiting for a thread")
            graced.signal(SIGTERM)
            assert waiting.recv_to_end() == words
            assert graced.wait() == 0


def start(store: FdStore) -> dict[str, Any]:
    return {"env": store.environment, "before": PASS, "pass_fds": store.descriptors}


@KINDS
@pytest.mark.parametrize(
    "handler", ["support.movable:CountingHandler", "support.movable:ForgetfulHandler"]
)
def test_restart_hands_waiting_clients_over(
    store: FdStore, tmp_path: Path, kind: str, handler: str
) -> None:
    options = ("--handler", handler)
    with ExitStack() as stack:
        place = address(kind, tmp_path)
        with Graced(*options, listen=place, config=ONE_THREAD, **start(store)) as graced:
            served = graced.addresses[0]
            first = first_of(graced, stack)
            waiting, half = (stack.enter_context(graced.connect()) for _ in range(2))
            for client in (waiting, half):
                client.send(b"?")
            wait_for_status(graced, "2 clients waiting for a thread")
            half.finish()
            graced.signal(SIGUSR2)
            assert graced.wait() == 79
        with Graced(*options, listen=served, config=ONE_THREAD, **start(store)) as graced:
            first.close()
            assert waiting.recv() == b"1"
            waiting.close()
            assert half.recv_to_end() == b"1"
            assert graced.stop() == 0


WAYS = ["close", "reset", "finish"]
"""How a client hangs up."""


@KINDS
@pytest.mark.parametrize("farewell", [b"", FAREWELL], ids=["undeclared", "declared"])
@pytest.mark.parametrize("when", ["before the signal", "in the drain"])
@pytest.mark.parametrize("words", [b"", b"hello\n", b"hel"], ids=["silent", "request", "half"])
def test_clients_that_hang_up_do_not_hold_up_the_stop(
    tmp_path: Path, kind: str, farewell: bytes, when: str, words: bytes
) -> None:
    """The answers of the others are right."""
    config = "[limits]\nmax_handler_threads = 1\n"
    if farewell:
        config += f"[shutdown]\nfarewell = '{farewell.decode()}'\n"
    options = ("--handler", "support.odd:Plain", "--grace", "30")
    env = {VARIABLE: str(tmp_path / "gate")}
    with (
        Gate(tmp_path / "gate") as gate,
        Graced(*options, listen=address(kind, tmp_path), config=config, env=env) as graced,
        ExitStack() as stack,
    ):
        busy = stack.enter_context(graced.connect())
        busy.send(b"slow\n")
        assert busy.recv_exactly(5) == b"one, "
        impatient = {way: stack.enter_context(graced.served()) for way in WAYS}
        patient = stack.enter_context(graced.served())
        if words:
            for client in (*impatient.values(), patient):
                client.send(words)
            wait_for_status(graced, "4 clients waiting for a thread")
        if when == "in the drain":
            graced.signal(SIGTERM)
            graced.log.wait_for("telling 5 clients")
        for way, client in impatient.items():
            with suppress(OSError):
                # The server may have ended the connection.
                getattr(client, way)()
        if when == "before the signal":
            graced.signal(SIGTERM)
            graced.log.wait_for("telling")
        gate.open()
        assert busy.recv_exactly(4) == b"two\n"
        busy.finish()
        assert busy.recv_to_end() in {farewell + b"bye\n", b"bye\n"}
        busy.close()
        answer = {b"": b"", b"hel": b"bye\n", b"hello\n": b"HELLO\nbye\n"}[words]
        heard = {farewell + answer}
        # That of which nothing but its end was heard may be closed before the signal, or have a
        # handler that says its last word.
        heard_at_end = heard if words else heard | {b"", b"bye\n", farewell + b"bye\n"}
        assert impatient["finish"].recv_to_end() in heard_at_end
        first = patient.recv_exactly(len(farewell))
        if words or farewell:
            patient.finish()
        assert first + patient.recv_to_end() in heard | {farewell + b"bye\n"}
        for client in (impatient["finish"], patient):
            client.close()
        assert graced.wait() == 0
        assert graced.stopped.closed == 0
        assert graced.stopped.seconds < QUICK


THREADS, CLIENTS = 256, 300
"""The default of `max_handler_threads`, and some more clients than that."""


def crowd(graced: Graced, stack: ExitStack, number: int = CLIENTS) -> list[Client]:
    clients = [stack.enter_context(graced.connect()) for _ in range(number)]
    for client in clients:
        client.send(b"?")
    return clients


def test_more_clients_than_threads() -> None:
    waiting = CLIENTS - THREADS
    with Graced("--handler", "echo-threaded", "--grace", "30") as graced, ExitStack() as stack:
        first = crowd(graced, stack)
        served, others = first[:THREADS], first[THREADS:]
        for client in served:
            assert client.recv() == b"?"
        wait_for_status(graced, f"{waiting} clients waiting for a thread")
        assert graced.log.count(FULL.replace("of 1", f"of {THREADS}")) == 1
        for leaving, next_one in zip(served, others, strict=False):
            leaving.close()
            assert next_one.recv() == b"?"
        assert "waiting" not in status(graced)
        served = [*served[waiting:], *others]
        others = crowd(graced, stack, waiting)
        wait_for_status(graced, f"{waiting} clients waiting for a thread")
        graced.signal(SIGTERM)
        for client in (*served, *others):
            client.expect_farewell_alone()
        for client in served:
            client.close()
        for client in others:
            assert client.recv() == b"?"
            client.close()
        assert graced.wait() == 0
        assert graced.stopped == (graced.stopped.seconds, CLIENTS, 0)
        assert graced.stopped.seconds < QUICK
        assert graced.log.count(FULL.replace("of 1", f"of {THREADS}")) == 1


def test_more_clients_than_threads_outlive_a_restart(store: FdStore) -> None:
    options = ("--handler", "support.movable:CountingHandler", "--grace", "30")
    with ExitStack() as stack:
        with Graced(*options, **start(store)) as graced:
            place = graced.addresses[0]
            clients = crowd(graced, stack)
            for client in clients[:THREADS]:
                assert client.recv() == b"1"
            wait_for_status(graced, f"{CLIENTS - THREADS} clients waiting for a thread")
            graced.signal(SIGUSR2)
            assert graced.wait() == 79
        with Graced(*options, listen=place, **start(store)) as graced:
            for client in clients[:THREADS]:
                client.send(b"?")
                assert client.recv() == b"2"
                client.close()
            for client in clients[THREADS:]:
                assert client.recv() == b"1"
                client.close()
            assert graced.stop() == 0
