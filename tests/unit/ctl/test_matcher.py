"""The echo client's reading of a stream."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from graced.ctl.matcher import (
    FAREWELL,
    MAX_COUNT,
    MIN_SIZE,
    Farewell,
    Matcher,
    Mismatch,
    Reply,
    payload,
)

farewells = st.binary(min_size=1, max_size=12) | st.sampled_from(
    [FAREWELL, b"0", b".", b"x", b"xx", b"1.1.", b"SS", "näher".encode()]
)
sequences = st.integers(1, MAX_COUNT)
sizes = st.integers(MIN_SIZE, 200)


# The payloads.


@given(sequences, sizes, farewells)
def test_payload_has_its_size_and_no_first_byte_of_the_farewell(
    seq: int, size: int, farewell: bytes
) -> None:
    data = payload(seq, size, farewell)
    assert len(data) == size
    assert farewell[0] not in data


@given(sequences, sequences, sizes, farewells | st.just(b""))
@example(1, 11, MIN_SIZE, b"")
@example(MAX_COUNT, MAX_COUNT - 1, MIN_SIZE, b"9")
def test_no_two_payloads_are_equal(one: int, other: int, size: int, farewell: bytes) -> None:
    assume(one != other)
    assert payload(one, size, farewell) != payload(other, size, farewell)


def test_payload_can_be_read_in_the_log_of_the_server() -> None:
    assert payload(41, 16) == b"41.41.41.41.41.4"


# The matcher: what one connection's stream says, wherever it is cut.


class Stream(NamedTuple):
    """The bytes that a server might send to a client, and the cuts between reads."""

    pings: int
    size: int
    farewell: bytes
    at: int
    """An offset in the echoes."""
    noise: bytes
    cuts: list[int]

    def matcher(self) -> Matcher:
        built = Matcher(self.farewell)
        for seq in range(1, self.pings + 1):
            built.expect(seq, payload(seq, self.size, self.farewell))
        return built

    def echoes(self) -> bytes:
        return b"".join(payload(seq, self.size, self.farewell) for seq in range(1, self.pings + 1))

    def replies_before(self, offset: int) -> list[Reply]:
        return [Reply(seq) for seq in range(1, offset // self.size + 1)]


@st.composite
def streams(draw: st.DrawFn, farewell: st.SearchStrategy[bytes] = farewells) -> Stream:
    pings, size = draw(st.integers(0, 5)), draw(sizes)
    return Stream(
        pings,
        size,
        draw(farewell),
        draw(st.integers(0, pings * size)),
        draw(st.binary(min_size=1, max_size=40)),
        draw(st.lists(st.integers(0, pings * size + 40), max_size=20)),
    )


def feed(matcher: Matcher, data: bytes, cuts: Iterable[int]) -> list[Reply | Farewell | Mismatch]:
    borders = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    return [event for a, b in itertools.pairwise(borders) for event in matcher.feed(data[a:b])]


@given(streams())
def test_farewell_is_heard_at_any_position_and_with_any_cut(stream: Stream) -> None:
    matcher, echoes = stream.matcher(), stream.echoes()
    data = echoes[: stream.at] + stream.farewell + echoes[stream.at :] + stream.noise
    expected = [*stream.replies_before(stream.at), Farewell(stream.at)]
    assert feed(matcher, data, stream.cuts) == expected
    assert matcher.feed(data) == []


@given(streams(farewells | st.just(b"")))
def test_any_cut_of_any_stream_gives_the_same_events(stream: Stream) -> None:
    echoes, wrong = stream.echoes(), stream.noise[:3]
    data = echoes[: stream.at] + wrong + echoes[stream.at + len(wrong) :] + stream.farewell
    events = stream.matcher().feed(data)
    assert feed(stream.matcher(), data, stream.cuts) == events
    assert feed(stream.matcher(), data, range(len(data))) == events


@given(streams(), st.integers(0, 255))
def test_wrong_byte_is_named(stream: Stream, got: int) -> None:
    echoes, at = stream.echoes(), stream.at
    assume(at < len(echoes))
    assume(got != echoes[at])
    assume(got != stream.farewell[0])  # which would have to be followed by a wrong one
    data = echoes[:at] + bytes([got]) + stream.noise
    assert stream.matcher().feed(data) == [
        *stream.replies_before(at),
        Mismatch(at, at // stream.size + 1, expected=echoes[at], got=got),
    ]


@pytest.mark.parametrize("end", range(1, len(FAREWELL)))
def test_part_of_a_farewell_is_no_farewell(end: int) -> None:
    matcher, ping = Matcher(), payload(1, 56)
    matcher.expect(1, ping)
    assert matcher.feed(FAREWELL[:end]) == []
    assert matcher.feed(b"?") == [Mismatch(0, 1, expected=ping[0], got=FAREWELL[0])]


def test_byte_without_a_ping_is_wrong() -> None:
    assert Matcher().feed(b"220 ready") == [Mismatch(0, None, expected=None, got=ord("2"))]


def test_server_may_have_no_farewell() -> None:
    matcher, ping = Matcher(b""), payload(1, 56, b"")
    matcher.expect(1, ping)
    assert matcher.feed(ping) == [Reply(1)]
    assert matcher.feed(FAREWELL) == [Mismatch(56, None, expected=None, got=ord("S"))]


def test_payload_that_could_be_a_farewell_is_refused() -> None:
    with pytest.raises(ValueError, match="first byte"):
        Matcher().expect(1, b"SOS")


# The figures.
