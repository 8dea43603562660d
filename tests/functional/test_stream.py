"""One long stream, with the farewell somewhere in it."""

from __future__ import annotations

import threading
from array import array
from signal import SIGTERM

import pytest

from support import FAREWELL, Graced

MEGABYTE = 1 << 20
STREAM = 64 * MEGABYTE
AT = 16 * MEGABYTE
"""Bytes that have come back when the signal is sent."""


def numbers(size: int) -> bytes:
    """A stream in which every eight bytes say where they are, and none is a farewell."""
    data = array("Q", range(size // 8))
    return data.tobytes()


def position(stream: memoryview, sent: bytes) -> int:
    """Where `stream` first differs from what was sent."""
    low, high = 0, len(sent)
    while low < high:
        middle = (low + high + 1) // 2
        if stream[:middle] == sent[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
def test_64_megabytes_come_back_and_farewell_once(handler: str, address: str) -> None:
    data = numbers(STREAM)
    view = memoryview(bytearray(STREAM + 2 * len(FAREWELL)))
    with (
        Graced("--handler", handler, "--grace", "600", listen=address) as graced,
        graced.connect() as client,
    ):

        def send() -> None:
            client.send(data)
            client.finish()

        sender = threading.Thread(target=send)
        sender.start()
        place = 0
        signalled = False
        while number := client.sock.recv_into(view[place:]):
            place += number
            if place >= AT and not signalled:
                graced.signal(SIGTERM)
                # A fast machine sends the rest before the main thread has its turn.
                graced.log.wait_for("SIGTERM received")
                signalled = True
        sender.join()
        client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 0)
    assert place == STREAM + len(FAREWELL)
    told_at = position(view, data)
    print(f"the farewell stands behind byte {told_at:,} of {STREAM:,}")
    assert view[told_at : told_at + len(FAREWELL)] == FAREWELL
    assert view[told_at + len(FAREWELL) : place] == data[told_at:]
    assert AT <= told_at < STREAM
