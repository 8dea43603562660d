"""Clients that never pause: the deadline is not theirs to decide."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from signal import SIGTERM

import pytest

from support import Client, Graced

LATE = 5.0
"""Seconds after the deadline: docs/reliability.md says 0.75, of a machine that is not busy.

Without the deadline it would take for ever."""


@contextmanager
def trickling(client: Client, data: bytes) -> Iterator[None]:
    """Send the data without a pause, until the connection is over."""
    ended = threading.Event()

    def send() -> None:
        try:
            while not ended.is_set():
                client.sock.sendall(data)
        except OSError:
            return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def drain(client: Client) -> None:
    try:
        while client.recv(1 << 16):
            pass
    except OSError:
        return


@pytest.mark.parametrize("size", [1, 60000], ids=["bytes", "floods"])
@pytest.mark.parametrize("handler", ["echo", "echo-threaded", "support.handlers:ShoutingHandler"])
def test_deadline_does_not_wait_for_a_client_that_never_pauses(handler: str, size: int) -> None:
    with Graced("--handler", handler, "--grace", "0.5") as graced, graced.served() as client:
        reader = threading.Thread(target=drain, args=(client,))
        with trickling(client, b"x" * size):
            reader.start()
            graced.signal(SIGTERM)
            assert graced.wait() == 0
            reader.join()
        seconds = float(graced.log.wait_for(r"stopped after ([0-9.]+) s")[1])
        assert seconds < 0.5 + LATE


def connect_and_leave(address: str, ended: threading.Event, *, half: bool) -> None:
    """Connect as fast as possible, with a byte; `half`: with an end of file and the connection."""
    with ExitStack() as stack:
        try:
            while not ended.is_set():
                client = Client.connect(address)
                client.send(b"x")
                if half:
                    stack.enter_context(client)
                    client.finish()
                else:
                    client.close()
        except OSError:
            # The listener is gone, or we have no descriptor left.
            return


@pytest.mark.parametrize("half", [False, True], ids=["closing", "half-closing"])
@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_flood_of_connections_keeps_nobody_from_the_farewell(
    tmp_path: Path, family: str, half: bool
) -> None:
    """Eight programs, and clients that were there before them."""
    listen = f"unix:{tmp_path}/socket" if family == "unix" else "127.0.0.1:0"
    with Graced("--grace", "5", listen=listen) as graced, ExitStack() as stack:
        (address,) = graced.addresses
        idle = [stack.enter_context(graced.served()) for _ in range(3)]
        ended = threading.Event()
        flooders = [
            threading.Thread(target=connect_and_leave, args=(address, ended), kwargs={"half": half})
            for _ in range(8)
        ]
        for each in flooders:
            each.start()
        stack.callback(ended.set)
        graced.log.wait_for("<6>connection from", 20)
        graced.signal(SIGTERM)
        for client in idle:
            client.expect_farewell_alone()
            client.close()
        assert graced.wait() == 0
        ended.set()
        for each in flooders:
            each.join()


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_clients_that_flood_keep_no_idle_client_from_the_farewell(
    tmp_path: Path, family: str
) -> None:
    """They were served before it."""
    listen = f"unix:{tmp_path}/socket" if family == "unix" else "127.0.0.1:0"
    with Graced("--grace", "2", listen=listen) as graced, ExitStack() as stack:
        floods = [stack.enter_context(graced.served()) for _ in range(4)]
        readers = [threading.Thread(target=drain, args=(client,)) for client in floods]
        for client in floods:
            stack.enter_context(trickling(client, b"x" * 60000))
        for reader in readers:
            reader.start()
        with graced.served() as idle:
            graced.signal(SIGTERM)
            idle.expect_farewell_alone()
        assert graced.wait() == 0
        for reader in readers:
            reader.join()
