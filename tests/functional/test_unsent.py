"""Unsent bytes over a restart, and over a change of the handler and of its kind."""

from __future__ import annotations

from contextlib import ExitStack
from signal import SIGUSR2
from typing import Any

import pytest

from support import PASS, Client, FdStore, Graced, settled
from support.kinds import CHUNK, HERE, LAST_WORDS

ASYNCHRONOUS = ["asyncio", "stream"]
"""The kinds with a write buffer; a blocking handler waits in its write."""


def start(store: FdStore, handler: str, kind: str = "", listen: str = "") -> Graced:
    options: dict[str, Any] = {"listen": listen} if listen else {}
    env = store.environment | {"KIND": kind}
    passed = store.descriptors
    return Graced("--handler", handler, env=env, before=PASS, pass_fds=passed, **options)


def fill(first: Graced, client: Client) -> bytes:
    """Stop the service when a client has unsent bytes; return them.

    All others have arrived: the kernel has room again.
    """
    client.send(b"fill")
    received = client.recv_exactly(1)
    assert settled(first.pid)
    first.signal(SIGUSR2)
    assert first.wait() == 79
    answer = CHUNK * int(first.log.wait_for("^chunks: (.*)")[1]) + LAST_WORDS
    unsent = int(first.log.wait_for("^unsent: ([1-9].*)")[1])
    received += client.recv_exactly(len(answer) - unsent - 1)
    assert received == answer[:-unsent]
    return answer[-unsent:]


@pytest.mark.parametrize("before", ASYNCHRONOUS)
@pytest.mark.parametrize("after", [*ASYNCHRONOUS, "blocking"])
def test_next_kind_of_a_handler_has_state_and_unsent_bytes(
    store: FdStore, before: str, after: str
) -> None:
    with ExitStack() as stack:
        with start(store, f"{HERE}:Counter", before) as first:
            (address,) = first.addresses
            client = stack.enter_context(first.connect())
            unsent = fill(first, client)
        with start(store, f"{HERE}:Counter", after, address) as second:
            assert client.recv_exactly(len(unsent)) == unsent
            client.send(b"x")
            assert client.recv() == b"2"
            assert second.log.count("^paused, knowing 0$") == 0
            client.close()
            assert second.stop() == 0
            assert not second.log.count("failed")


@pytest.mark.parametrize("before", ASYNCHRONOUS)
@pytest.mark.parametrize("after", ["asyncio", "stream", "blocking", "echo"])
def test_client_of_another_handler_gets_its_unsent_bytes(
    store: FdStore, before: str, after: str
) -> None:
    with ExitStack() as stack:
        with start(store, f"{HERE}:Counter", before) as first:
            (address,) = first.addresses
            client = stack.enter_context(first.connect())
            unsent = fill(first, client)
        other = "echo" if after == "echo" else f"{HERE}:Other"
        with start(store, other, after, address) as second:
            assert client.recv_to_end() == unsent
            second.log.wait_for("^<4>clients cannot be inherited.*: their handler was")
            client.close()
            assert second.stop() == 0
