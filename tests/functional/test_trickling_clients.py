"""Clients that never pause: the deadline is not theirs to decide."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
