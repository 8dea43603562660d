"""Handlers that go on after a restart: files, greetings, and nobody before all are back."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from signal import SIGTERM, SIGUSR1, SIGUSR2
from typing import Any

import pytest

from support import PASS, Client, FdStore, Graced

KINDS = pytest.mark.parametrize("kind", ["tcp", "unix"])
CHAT = ("--handler", "support.movable:ChatHandler")


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


def address(kind: str, directory: Path) -> str:
    return "127.0.0.1:0" if kind == "tcp" else f"unix:{directory}/socket"


def start(store: FdStore, gate: Path) -> dict[str, Any]:
    return {
        "env": {**store.environment, "GATE": str(gate)},
        "before": PASS,
        "pass_fds": store.descriptors,
    }


def heard(client: Client, words: bytes) -> None:
    assert client.recv_exactly(len(words)) == words


def tell(client: Client, line: bytes, answer: bytes) -> None:
    client.send(line)
    heard(client, answer)


def restart(graced: Graced) -> None:
    graced.signal(SIGUSR2)
    assert graced.wait() == 79


@KINDS
def test_nobody_goes_on_before_all_are_back(
    store: FdStore, gate: Path, tmp_path: Path, kind: str
) -> None:
    with ExitStack() as stack:
        with Graced(*CHAT, listen=address(kind, tmp_path), **start(store, gate)) as first:
            (served,) = first.addresses
            anna, bert = (stack.enter_context(first.connect()) for _ in range(2))
            tell(anna, b"name anna\n", b"welcome\n(unflushed greeting)\nhello\n")
            tell(bert, b"name bert\n", b"welcome\n(unflushed greeting)\nhello\n")
            heard(anna, b"somebody comes\n")
            tell(bert, b"slow\n", b"slow then\n")
            tell(bert, b"later\n", b"later then\n")
            # The beginning of a line is part of the state.
            anna.send(b"half a")
            restart(first)
        with Graced(*CHAT, listen=served, **start(store, gate)) as second:
            anna.send(b" line\n")
            with second.connect() as carl:
                carl.send(b"hello from the new one\n")
                second.log.wait_for("connection from")
                # Neither may speak before bert is back.
                anna.sock.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    anna.recv()
                anna.sock.settimeout(60)
                gate.touch()
                heard(anna, b"all are back\n")
                found = bert.recv_exactly(len(b"all are back\n"))
                assert found == b"all are back\n"
                expected = {
                    b"somebody comes",
                    b"anna: half a line",
                    b": hello from the new one",
                    b"unflushed answer",
                }
                size = sum(len(line) + 1 for line in expected)
                assert set(bert.recv_exactly(size).splitlines()) == expected
                tell(carl, b"later\n", b"welcome\n(unflushed greeting)\n")
            assert second.stop(SIGTERM) == 0
            second.tracebacks = True


@KINDS
def test_handler_that_never_reads_goes_on(
    store: FdStore, gate: Path, tmp_path: Path, kind: str
) -> None:
    options = ("--handler", "support.movable:TickingHandler")
    with ExitStack() as stack:
        with Graced(*options, listen=address(kind, tmp_path), **start(store, gate)) as first:
            client = stack.enter_context(first.connect())
            found = client.recv_exactly(20)
            restart(first)
            first.log.wait_for("handing over 1 client to the next start, 0 remaining")
        with Graced(*options, listen=first.addresses[0], **start(store, gate)):
            found += client.recv_exactly(400)
    whole = found[: found.rindex(b"\n") + 1]
    lines = whole.splitlines()
    assert lines == [b"%d" % number for number in range(len(lines))]


@KINDS
def test_request_that_is_closed_by_a_with_block_goes_on(
    store: FdStore, gate: Path, tmp_path: Path, kind: str
) -> None:
    """The exception at the read leaves the block, and closes nothing."""
    options = ("--handler", "support.foreign:Context")
    with Graced(*options, listen=address(kind, tmp_path), **start(store, gate)) as first:
        client = first.connect()
        tell(client, b"a", b"1")
        restart(first)
    with client, Graced(*options, listen=first.addresses[0], **start(store, gate)) as second:
        tell(client, b"b", b"2")
        client.close()
        second.log.wait_for("closing connection .*: handler ended")
        second.signal(SIGUSR1)
        second.log.wait_for("serving: 0 clients now")
        assert second.stop(SIGTERM) == 0


@pytest.mark.parametrize(
    ("name", "carried"),
    [
        ("Impatient", True),
        ("Selecting", False),
        ("Polling", False),
        ("Patient", False),
        ("OtherThread", False),
    ],
)
def test_handler_that_waits_in_another_way_than_in_a_read(
    store: FdStore, gate: Path, name: str, carried: bool
) -> None:
    """It reads again soon, or its client is told; a client without a handler is carried anyway."""
    options = ("--handler", f"support.movable_waits:{name}", "--grace", "2")
    with Graced(*options, **start(store, gate)) as first:
        client, silent = first.connect(), first.served()
        tell(client, b"a", b"1")
        restart(first)
        assert first.log.count("telling 1 client") == (not carried)
        assert first.stopped.closed == 0
    with (
        client,
        silent,
        Graced(*options, listen=first.addresses[0], **start(store, gate)) as second,
    ):
        if carried:
            tell(client, b"b", b"2")
        else:
            assert client.recv_to_end() == b""
        tell(silent, b"a", b"1")
        assert second.stop(SIGTERM) == 0
