"""A start with another handler than the last one: no client hears words of a strange protocol."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from signal import SIGTERM, SIGUSR2
from typing import Any

import pytest

from support import PASS, Client, FdStore, Graced, run_graced

COUNTING, OTHER = "support.movable:CountingHandler", "support.movable:OtherHandler"
STREAM = "support.streams:MovableEcho"
ASYNCIO = "support.asynchronous:MovableEcho"


def start(store: FdStore) -> dict[str, Any]:
    return {"env": store.environment, "before": PASS, "pass_fds": store.descriptors}


def hand_over(store: FdStore, handler: str, stack: ExitStack) -> tuple[str, Client, Client]:
    """The address, a client that has spoken with the handler, and one that has not."""
    with Graced("--handler", handler, **start(store)) as first:
        (address,) = first.addresses
        spoken, silent = (stack.enter_context(first.served()) for _ in range(2))
        spoken.send(b"1")
        assert spoken.recv() == b"1"
        first.signal(SIGUSR2)
        assert first.wait() == 79
    return address, spoken, silent


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (COUNTING, OTHER),
        (OTHER, COUNTING),
        ("echo", OTHER),
        (OTHER, "echo"),
        ("echo-threaded", COUNTING),
        (COUNTING, "support.handlers:TellingHandler"),
        (STREAM, OTHER),
        (OTHER, STREAM),
        ("echo", STREAM),
        (STREAM, "echo"),
        (STREAM, "support.streams:TellingEcho"),
        (ASYNCIO, OTHER),
        (OTHER, ASYNCIO),
        (ASYNCIO, STREAM),
        (STREAM, ASYNCIO),
        (ASYNCIO, "echo"),
        ("echo", ASYNCIO),
    ],
)
def test_client_of_another_handler_hears_end_of_file(
    store: FdStore, before: str, after: str
) -> None:
    with ExitStack() as stack:
        address, spoken, silent = hand_over(store, before, stack)
        with Graced("--handler", after, listen=address, **start(store)) as second:
            assert spoken.recv_to_end() == b""
            second.log.wait_for("<4>clients cannot be inherited.*: their handler was")
            silent.send(b"1")
            assert silent.recv() == b"1"
            silent.close()
            assert second.stop(SIGTERM) == 0


@pytest.mark.parametrize(
    "handlers",
    [("echo", "echo-threaded"), (OTHER, OTHER), (STREAM, STREAM), (ASYNCIO, ASYNCIO)],
)
def test_client_of_the_same_handler_stays(store: FdStore, handlers: tuple[str, str]) -> None:
    before, after = handlers
    with ExitStack() as stack:
        address, spoken, _ = hand_over(store, before, stack)
        with Graced("--handler", after, listen=address, **start(store)) as second:
            spoken.send(b"2")
            assert spoken.recv() == b"2"
            assert not second.log.count("cannot be inherited")


@pytest.mark.parametrize(("before", "words"), [(COUNTING, b""), (OTHER, b"SHUTDOWN")])
def test_refused_start_says_nothing_to_clients_of_another_handler(
    store: FdStore, tmp_path: Path, before: str, words: bytes
) -> None:
    config = tmp_path / "graced.toml"
    # More than any limit of descriptors allows.
    config.write_text("[limits]\nmax_clients = 1_000_000_000\n")
    with ExitStack() as stack:
        address, spoken, _ = hand_over(store, before, stack)
        options = ("--config", str(config), "--handler", OTHER, "--listen", address)
        refused = run_graced(*options, **start(store))
        assert refused.returncode == 78
        assert spoken.recv_to_end() == words
