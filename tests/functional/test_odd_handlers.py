"""Handlers that use their socket in every way that there is: the goodbye is the same."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

from functional.foreign import QUICK
from graced import GracefulTCPServer
from strangers.conversation import await_next_tick
from strangers.gate import VARIABLE, Gate
from support import PATIENCE, Client, Graced, library, odd

HANDLERS = pytest.mark.parametrize("name", odd.ALL)
UNSEEN = {
    *("Duplicated", "FromFd", "FileOfDescriptor", "Loop", "Descriptor", "Sendfile", "Detached"),
    *("Program", "Multiprocessing", "Forked", "LeftToChild"),
    *("DuplicateSendfile", "DuplicateFile", "SocketOfDuplicate", "Splice"),
}
"""Handlers that do not call their request.

Over a Unix socket nobody knows what they do: the kernel does not say who spoke last.
"""
SEEN = [(name, "127.0.0.1:0") for name in odd.ALL]
SEEN += [(name, "unix:") for name in odd.ALL if name not in UNSEEN]


def serve(name: str, directory: Path, address: str, grace: str, **more: Any) -> Graced:
    env = {VARIABLE: str(directory / "gate")}
    options = ("--handler", f"support.odd:{name}", "--grace", grace)
    return Graced(*options, listen=address, env=env, **more)


def tell(client: Client, line: bytes) -> None:
    client.send(line)
    assert client.recv_exactly(len(line)) == line.upper()


@pytest.mark.parametrize(("name", "address"), SEEN, indirect=["address"])
def test_everybody_is_told(name: str, address: str, tmp_path: Path) -> None:
    with (
        Gate(tmp_path / "gate") as gate,
        serve(name, tmp_path, address, "30") as graced,
        ExitStack() as stack,
    ):
        graced.tracebacks = name in {"Exiting", "FailingFinish"}
        silent, resting, half, slow = (stack.enter_context(graced.connect()) for _ in range(4))
        for client in (resting, half):
            tell(client, b"hello\n")
        await_next_tick()
        half.send(b"hel")
        slow.send(b"slow\n")
        assert slow.recv_exactly(5) == b"one, "
        graced.signal(SIGTERM)
        silent.expect_end()
        assert resting.recv_to_end() in {b"bye\n", b""}
        for client in (silent, resting):
            client.close()
        half.send(b"lo\n")
        assert half.recv_exactly(6) == b"HELLO\n"
        gate.open()
        assert slow.recv_exactly(4) == b"two\n"
        for client in (half, slow):
            assert client.recv_to_end() in {b"bye\n", b""}
            client.close()
        assert graced.wait() == 0
        assert graced.stopped.closed == 0
        assert graced.stopped.seconds < 2 * QUICK


@HANDLERS
def test_answer_under_way_is_whole(name: str, address: str, tmp_path: Path) -> None:
    with Gate(tmp_path / "gate") as gate, serve(name, tmp_path, address, "3") as graced:
        graced.tracebacks = name in {"Exiting", "FailingFinish"}
        with graced.connect() as client, graced.connect() as silent:
            client.send(b"slow\n")
            assert client.recv_exactly(5) == b"one, "
            graced.signal(SIGTERM)
            silent.expect_end()
            gate.open()
            assert client.recv_exactly(4) == b"two\n"
            assert client.recv_to_end() in {b"bye\n", b""}
        assert graced.wait() == 0


DECLARED = '[shutdown]\nfarewell = "SHUTDOWN"\n'
LAST_WORDS = {b"SHUTDOWNbye\n", b"SHUTDOWN", b"bye\n", b""}
"""The farewell comes while the handler waits for its client, if that can be seen."""


def expect_whole_answer(client: Client, begin: bytes, gate: Gate) -> None:
    """The rest of a long answer, whose handler pauses in the middle until the gate opens."""
    assert begin + client.recv_exactly(odd.PART - len(begin)) == odd.part(1)
    # Longer than the gap, and than the pause between two looks at the client.
    client.sock.settimeout(0.4)
    with pytest.raises(TimeoutError):
        raise AssertionError(client.recv())
    client.sock.settimeout(PATIENCE)
    gate.open()
    assert client.recv_exactly(odd.PART) == odd.part(2)
    client.finish()
    assert client.recv_to_end() in LAST_WORDS
    client.close()


@pytest.mark.parametrize("config", ["", DECLARED], ids=["undeclared", "declared"])
@HANDLERS
def test_nothing_is_said_in_the_middle_of_a_long_answer(
    name: str, config: str, address: str, tmp_path: Path
) -> None:
    with (
        Gate(tmp_path / "gate") as gate,
        serve(name, tmp_path, address, "30", config=config) as graced,
        graced.connect(receive_buffer=65536) as client,
        graced.connect() as silent,
    ):
        graced.tracebacks = name in {"Exiting", "FailingFinish"}
        client.send(b"long\n")
        begin = client.recv_exactly(100_000)
        graced.signal(SIGTERM)
        assert silent.recv() == (b"SHUTDOWN" if config else b"")
        silent.close()
        expect_whole_answer(client, begin, gate)
        assert graced.wait() == 0


@pytest.mark.parametrize("address", ["tcp", "unix"])
@pytest.mark.parametrize("name", ["Plain", "Messages", "Descriptor", "Sendfile", *odd.UNNOTED])
def test_library_says_nothing_in_the_middle_of_a_long_answer(
    name: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gate"))
    handler = getattr(odd, name)
    with ExitStack() as stack:
        server: GracefulTCPServer
        if address == "unix":
            server = library.TellingUnixServer(f"{tmp_path}/socket", handler)
        else:
            server = library.TellingServer(library.LOCALHOST, handler)
        stack.enter_context(library.serving(server))
        gate = stack.enter_context(Gate(tmp_path / "gate"))
        client = stack.enter_context(library.connect(server))
        client.send(b"long\n")
        begin = client.recv_exactly(100_000)
        with library.draining(server):
            expect_whole_answer(client, begin, gate)


@HANDLERS
def test_deadline_ends_all(name: str, address: str, tmp_path: Path) -> None:
    with (
        Gate(tmp_path / "gate") as gate,
        serve(name, tmp_path, address, "1") as graced,
        graced.connect() as client,
    ):
        graced.tracebacks = True
        tell(client, b"hello\n")
        client.send(b"stay\n")
        graced.signal(SIGTERM)
        assert client.recv_to_end() in {b"bye\n", b""}
        # A child that does not look at its connection would live on.
        gate.open()
        assert graced.wait() == 0
        assert 1.0 <= graced.stopped.seconds < 1.0 + QUICK


@HANDLERS
def test_handler_ends_with_its_client(name: str, address: str, tmp_path: Path) -> None:
    with serve(name, tmp_path, address, "30") as graced:
        graced.tracebacks = name in {"Exiting", "FailingFinish"}
        with graced.connect() as client:
            tell(client, b"hello\n")
            client.finish()
            assert client.recv_to_end() == b"bye\n"
        assert graced.stop() == 0
        assert graced.stopped.seconds < QUICK
