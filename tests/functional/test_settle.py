"""A handover with busy handlers: other clients are served meanwhile, and no client is lost."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from signal import SIGTERM, SIGUSR2
from typing import Any

import pytest

from support import PASS, Client, FdStore, Graced

COUNTING = ("--handler", "support.movable:CountingHandler")
FORGETFUL = ("--handler", "support.movable:ForgetfulHandler")
SETTLING = "may save their state"
KINDS = pytest.mark.parametrize("kind", ["tcp", "unix"])


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


def start(store: FdStore, gate: Path) -> dict[str, Any]:
    return {
        "env": {**store.environment, "GATE": str(gate)},
        "before": PASS,
        "pass_fds": store.descriptors,
    }


def address(kind: str, directory: Path) -> str:
    return "127.0.0.1:0" if kind == "tcp" else f"unix:{directory}/socket"


def ask(client: Client, number: int, question: bytes = b"?") -> None:
    client.send(question)
    assert client.recv() == b"%d" % number


@KINDS
def test_clients_at_rest_are_served_while_handler_is_busy(
    store: FdStore, gate: Path, tmp_path: Path, kind: str
) -> None:
    with ExitStack() as clients:
        options = (*COUNTING, "--grace", "60")
        with Graced(*options, listen=address(kind, tmp_path), **start(store, gate)) as first:
            (served,) = first.addresses
            busy, idle, silent = (clients.enter_context(first.connect()) for _ in range(3))
            for client in (busy, idle):
                ask(client, 1)
            busy.send(b"busy")
            first.signal(SIGUSR2)
            first.log.wait_for(f"1 busy handler {SETTLING}")
            for number in (2, 3, 4):
                ask(idle, number)
            ask(silent, 1)
            with Client.connect(served) as late:
                ask(late, 1)
            gate.touch()
            assert busy.recv() == b"2"
            assert first.wait() == 79
            first.log.wait_for("handing over 3 clients to the next start, 0 remaining")
        with Graced(*COUNTING, listen=served, **start(store, gate)) as second:
            ask(busy, 3)
            ask(idle, 5)
            ask(silent, 2)
            assert second.stop() == 0


def test_busy_handler_is_told_after_most_of_grace_period(store: FdStore, gate: Path) -> None:
    """And the others go on in the next process, before or after."""
    with ExitStack() as clients:
        with Graced(*COUNTING, "--grace", "1", **start(store, gate)) as first:
            (served,) = first.addresses
            busy, idle = (clients.enter_context(first.connect()) for _ in range(2))
            for client in (busy, idle):
                ask(client, 1)
            busy.send(b"busy")
            first.signal(SIGUSR2)
            assert first.wait() == 79
            first.log.wait_for("handing over 1 client to the next start, 1 remaining")
            assert busy.recv_to_end() == b""
        with Graced(*COUNTING, listen=served, **start(store, gate)) as second:
            ask(idle, 2)
            assert second.stop() == 0


def test_stop_while_handler_is_busy(store: FdStore, gate: Path) -> None:
    """SIGTERM ends the handover: also clients whose state is saved hear of it, and are answered."""
    options = (*COUNTING, "--grace", "60")
    with Graced(*options, **start(store, gate)) as graced, ExitStack() as clients:
        busy, saved, idle = (clients.enter_context(graced.connect()) for _ in range(3))
        for client in (busy, saved, idle):
            ask(client, 1)
        busy.send(b"busy")
        saved.send(b"busy")
        graced.signal(SIGUSR2)
        graced.log.wait_for(SETTLING)
        ask(idle, 2)
        graced.signal(SIGTERM)
        graced.log.wait_for("SIGTERM received")
        gate.touch()
        for client in (busy, saved):
            assert client.recv_to_end() == b"2"
        assert idle.recv_to_end() == b""
        for client in (busy, saved, idle):
            client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (3, 0)


@pytest.mark.parametrize("options", [COUNTING, FORGETFUL], ids=["movable", "not movable"])
def test_crowd_is_handed_over_while_handlers_compute(
    store: FdStore, gate: Path, options: tuple[str, ...]
) -> None:
    """Each system call of another thread waits until four have computed for 5 ms."""
    with ExitStack() as clients:
        with Graced(*options, "--grace", "2", **start(store, gate)) as first:
            (served,) = first.addresses
            computing = [clients.enter_context(first.connect()) for _ in range(4)]
            silent = [clients.enter_context(first.connect()) for _ in range(600)]
            spoken = [clients.enter_context(first.connect()) for _ in range(100)]
            for client in spoken:
                ask(client, 1)
            for client in computing:
                client.send(b"compute")
            first.signal(SIGUSR2)
            assert first.wait() == 79
        movable = options is COUNTING
        patient = next(text for text in store.texts if "STATUS=handing over" in text)
        assert "EXTEND_TIMEOUT_USEC=" in patient
        with Graced(*options, listen=served, **start(store, gate)) as second:
            for client in silent:
                # The handlers have fewer threads.
                ask(client, 1)
                client.close()
            for client in spoken:
                if movable:
                    ask(client, 2)
                else:
                    assert client.recv_to_end() == b""
            second.log.wait_for("inherited")
            for client in computing:
                assert client.recv_to_end() == b""
            assert second.stop() == 0
