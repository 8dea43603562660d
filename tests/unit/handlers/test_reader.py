"""The input file of a handler that can go on: as `io.BufferedReader`, and no byte is lost."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.handlers.reader import Reader

CALLS = st.one_of(
    st.tuples(st.just("readline"), st.integers(-1, 12)),
    st.tuples(st.just("read"), st.integers(0, 12)),
    st.tuples(st.just("readinto"), st.integers(0, 12)),
)
PIECES = st.lists(st.lists(st.sampled_from(b"bc\n")), max_size=20)


class Interrupting(socket.socket):
    """Has bytes in pieces; an empty piece is an interruption, the end is end of file."""

    def feed(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    def recv(self, size: int, *_args: int) -> bytes:
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if not piece:
            raise InterruptedError
        self.pieces[:0] = [piece[size:]] if piece[size:] else []
        return piece[:size]


@pytest.fixture
def sock() -> Iterator[Interrupting]:
    with Interrupting() as sock:
        yield sock


@given(PIECES, st.lists(CALLS, max_size=20))
def test_interrupted_calls_lose_nothing(
    pieces: list[list[int]], calls: list[tuple[str, int]]
) -> None:
    """Each call is made again until nothing interrupts it, and returns what a file would."""
    whole = io.BytesIO(b"".join(map(bytes, pieces)))
    with Interrupting() as sock, Reader(sock, -1) as reader:
        sock.feed(*map(bytes, pieces))
        for name, argument in [*calls, ("read", -1)]:
            mine: Any = argument
            theirs: Any = argument
            if name == "readinto":
                mine, theirs = bytearray(argument), bytearray(argument)
            while True:
                try:
                    found = getattr(reader, name)(mine)
                    break
                except InterruptedError:
                    continue
            assert found == getattr(whole, name)(theirs)
            assert mine == theirs


def test_file_without_buffer_takes_no_byte_too_many(sock: Interrupting) -> None:
    sock.feed(b"3\nabc", b"de", b"f", b"end")
    with Reader(sock, 0) as reader:
        assert reader.readline() == b"3\n"
        assert sock.recv(3) == b"abc"
        assert reader.read(100) == b"de", "what is there"
        assert reader.readinto(into := bytearray(2)) == 1
        assert into[:1] == b"f"
        assert reader.read1(1) == b"e"
        assert reader.read() == b"nd"


def test_lines(sock: Interrupting) -> None:
    sock.feed(b"one\ntw", b"o\nthree")
    reader = Reader(sock, -1)
    assert list(reader) == [b"one\n", b"two\n", b"three"]
    reader.close()


def test_text_over_it(sock: Interrupting) -> None:
    sock.feed("z\u00fcrich\nbern\n".encode())
    reader: Any = Reader(sock, -1)
    with io.TextIOWrapper(reader, encoding="utf-8") as text:
        assert text.readlines() == ["z\u00fcrich\n", "bern\n"]


def test_peek_takes_nothing(sock: Interrupting) -> None:
    sock.feed(b"one")
    with Reader(sock, -1) as reader:
        assert reader.peek(1) == b"one"
        assert reader.peek(1) == b"one"
        assert reader.read1(2) == b"on"
        assert reader.read1() == b"e"
        assert reader.peek(1) == b""


def test_closed_file_is_not_read(sock: Interrupting) -> None:
    sock.feed(b"one")
    reader = Reader(sock, -1)
    sock.close()
    assert sock.fileno() >= 0, "the file still has it"
    reader.close()
    reader.close()
    assert sock.fileno() < 0
    with pytest.raises(ValueError, match="closed file"):
        reader.readline()
