"""The same protocol class under graced and under asyncio: the same calls, the same bytes.

docs/handlers.md lists the differences; `Outcome` leaves out what the list allows.
"""

from __future__ import annotations

import socket
from contextlib import closing
from errno import ECONNRESET, ENOTCONN, EPIPE
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loop.stream_scene import Buffered, Scripted, Switching, UnderAsyncio, UnderGraced
from support import PATIENCE

CLASSES = [Scripted, Buffered, Switching]
COMMANDS = "enlBvtcafkprsSwqx"


class Outcome(NamedTuple):
    """What client and handler have seen."""

    calls: list[str]
    received: bytes | None
    """None where the end was abrupt: bytes that the kernel had not taken are lost then."""
    is_reset: bool
    """Whether the kernel has reset the connection: the client may not have read everything."""


def play(under: Any, chunks: list[str]) -> Outcome:
    """Send chunks, each when the last one has been received, then end of file; read all."""
    sent = 0
    received = b""
    is_reset = False
    with socket.socket() as client:
        client.settimeout(PATIENCE)
        client.connect(under.address)
        record = under.next_record()
        try:
            for chunk in chunks:
                client.sendall(chunk.encode())
                sent += len(chunk)
                record.wait_for(lambda end=sent: record.has_taken(end))
                if record.is_over:
                    break
            client.shutdown(socket.SHUT_WR)
            record.wait_for(lambda: "eof" in record.calls or record.is_over)
            while data := client.recv(1 << 16):
                received += data
        except OSError as error:
            is_reset = error.errno in {ECONNRESET, EPIPE, ENOTCONN}
            if not is_reset:
                raise
        record.wait_for(lambda: record.is_lost)
    abrupt = record.calls[-1] != "lost NoneType" or record.is_aborted
    return Outcome(record.calls, None if abrupt else received, is_reset)


@pytest.mark.parametrize("cls", CLASSES)
def test_no_difference(cls: Any) -> None:
    with closing(UnderGraced(cls)) as graced:
        # As a part of what the profile says, see tests/conftest.py.
        @settings(max_examples=3 * settings().max_examples // 2)
        @given(chunks=st.lists(st.text(COMMANDS, min_size=1, max_size=4), max_size=6))
        def compare(chunks: list[str]) -> None:
            ours = play(graced, chunks)
            # A loop of its own: writelines() of Python 3.13 can leave a closed descriptor in the
            # selector, and the next transport with its number hears nothing.
            with closing(UnderAsyncio(cls)) as asyncio:
                theirs = play(asyncio, chunks)
            assert ours.calls == theirs.calls
            # asyncio closes a socket with unread input, and the client is reset.
            assert theirs.is_reset or ours.received == theirs.received
            assert ours.received is None or not ours.is_reset

        compare()
