"""The echo client's reading of a stream, and its conduct on a real socket."""

from __future__ import annotations

import contextlib
import itertools
import math
import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from graced.ctl.session import (
    FAREWELL,
    MAX_COUNT,
    MAX_SIZE,
    MIN_SIZE,
    Closed,
    Event,
    Farewell,
    Lost,
    Matcher,
    Mismatch,
    Plan,
    Reply,
    RoundTrip,
    RoundTripTimes,
    Session,
    payload,
)

NEVER = 3600.0
"""Seconds that no test lives to see: where one waits this long, something else ends the wait."""

farewells = st.binary(min_size=1, max_size=12) | st.sampled_from(
    [FAREWELL, b"0", b".", b"x", b"xx", b"1.1.", b"SS", "näher".encode()]
)
sequences = st.integers(1, MAX_COUNT)
sizes = st.integers(MIN_SIZE, 200)


# The payloads.


@given(sequences, sizes, farewells)
def test_a_payload_has_its_size_and_no_first_byte_of_the_farewell(
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


def test_a_payload_can_be_read_in_the_log_of_the_server() -> None:
    assert payload(41, 16) == b"41.41.41.41.41.4"


# The matcher: what one connection's stream says, wherever it is cut.


class Stream(NamedTuple):
    """What a server might send to a client that has sent some pings, and how it arrives."""

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
def test_the_farewell_is_heard_at_any_position_and_with_any_cut(stream: Stream) -> None:
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
def test_a_wrong_byte_is_named(stream: Stream, got: int) -> None:
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
def test_the_beginning_of_a_farewell_is_none(end: int) -> None:
    matcher, ping = Matcher(), payload(1, 56)
    matcher.expect(1, ping)
    assert matcher.feed(FAREWELL[:end]) == []
    assert matcher.feed(b"?") == [Mismatch(0, 1, expected=ping[0], got=FAREWELL[0])]


def test_a_byte_nobody_asked_for_is_wrong() -> None:
    assert Matcher().feed(b"220 ready") == [Mismatch(0, None, expected=None, got=ord("2"))]


def test_a_server_may_have_no_farewell() -> None:
    matcher, ping = Matcher(b""), payload(1, 56, b"")
    matcher.expect(1, ping)
    assert matcher.feed(ping) == [Reply(1)]
    assert matcher.feed(FAREWELL) == [Mismatch(56, None, expected=None, got=ord("S"))]


def test_a_payload_that_could_be_a_farewell_is_refused() -> None:
    with pytest.raises(ValueError, match="first byte"):
        Matcher().expect(1, b"SOS")


# The figures.


@given(st.lists(st.integers(0, 10**11), min_size=1))
def test_the_figures_are_those_of_the_statistics_module(rtts: list[int]) -> None:
    times = RoundTripTimes()
    for rtt in rtts:
        times.add(rtt)
    figures = times.figures_ms()
    assert figures is not None
    assert figures["min"] == min(rtts) / 1e6
    assert figures["max"] == max(rtts) / 1e6
    assert math.isclose(figures["avg"], statistics.fmean(rtts) / 1e6)
    assert math.isclose(figures["mdev"], statistics.pstdev(rtts) / 1e6, abs_tol=1e-6)


def test_of_nothing_there_are_no_figures() -> None:
    assert RoundTripTimes().figures_ms() is None


# The session: a scripted server at the other end of a real connection.


@contextlib.contextmanager
def peer(script: Callable[[socket.socket], None], *, tcp: bool = False) -> Iterator[socket.socket]:
    """A connected socket; what is at its other end runs `script` in a thread and hangs up.

    The thread is joined, and what it raised is raised here.
    """
    raised: list[BaseException] = []
    if tcp:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
    else:
        ours, theirs = socket.socketpair()

    def run() -> None:
        try:
            with theirs:
                script(theirs)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    with ours:
        thread.start()
        try:
            yield ours
        finally:
            # A script that still reads comes to its end of file.
            with contextlib.suppress(OSError):
                ours.shutdown(socket.SHUT_WR)
            thread.join()
    for error in raised:
        raise error


def take(sock: socket.socket, seq: int, size: int = 56) -> bytes:
    """Receive ping `seq`, whole."""
    data = sock.recv(size, socket.MSG_WAITALL)
    assert data == payload(seq, size)
    return data


def echo(sock: socket.socket) -> None:
    while data := sock.recv(4096):
        sock.sendall(data)


def seqs(events: list[Event]) -> list[int]:
    assert all(isinstance(event, RoundTrip) for event in events)
    return [event.seq for event in events if isinstance(event, RoundTrip)]


def test_every_ping_comes_back() -> None:
    with peer(echo) as sock:
        session = Session(sock, Plan(pings=5, interval=0))
        events = list(session.run())
    assert seqs(events) == [1, 2, 3, 4, 5]
    assert session.sent == session.times.count == len(events)
    assert all(event.time_ms > 0 for event in events if isinstance(event, RoundTrip))


def test_the_interval_is_kept_between_two_pings() -> None:
    with peer(echo) as sock:
        interval, started = 0.02, time.monotonic()
        assert seqs(list(Session(sock, Plan(pings=3, interval=interval)).run())) == [1, 2, 3]
        assert time.monotonic() - started >= 2 * interval


@pytest.mark.parametrize("tcp", [False, True])
def test_the_largest_payload_crosses_buffers_smaller_than_itself(tcp: bool) -> None:
    with peer(echo, tcp=tcp) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        session = Session(sock, Plan(pings=2, interval=0, size=MAX_SIZE))
        assert seqs(list(session.run())) == [1, 2]


def test_a_farewell_between_two_pings_is_heard_at_once() -> None:
    def script(sock: socket.socket) -> None:
        sock.sendall(take(sock, 1))
        sock.sendall(FAREWELL)
        assert sock.recv(1) == b"", "nothing may be sent after the farewell"

    with peer(script) as sock:
        events = list(Session(sock, Plan(interval=NEVER)).run())
    assert seqs(events[:-1]) == [1]
    assert events[-1] == Farewell(56)


@pytest.mark.parametrize("behind", [b"", payload(2, 56), b"anything"])
def test_a_farewell_glued_to_an_echo_is_heard(behind: bytes) -> None:
    def script(sock: socket.socket) -> None:
        sock.sendall(take(sock, 1) + FAREWELL + behind)

    with peer(script) as sock:
        session = Session(sock, Plan(pings=1))
        events = list(session.run())
    assert seqs(events[:-1]) == [1]
    assert events[-1] == Farewell(56)
    assert session.sent == session.times.count == 1


def test_a_farewell_inside_an_echo_and_in_pieces_is_heard() -> None:
    def script(sock: socket.socket) -> None:
        data = take(sock, 1)
        sock.sendall(data[:30])
        for byte in FAREWELL:
            sock.sendall(bytes([byte]))
        sock.sendall(data[30:])

    with peer(script) as sock:
        session = Session(sock, Plan(interval=NEVER, timeout=NEVER))
        assert list(session.run()) == [Farewell(30)]
    # The server would have sent the rest: nothing is lost.
    assert (session.sent, session.times.count, session.lost) == (1, 0, 0)


def test_a_farewell_instead_of_the_echo_is_heard() -> None:
    def script(sock: socket.socket) -> None:
        take(sock, 1)
        sock.sendall(FAREWELL)

    with peer(script) as sock:
        assert list(Session(sock, Plan(timeout=NEVER)).run()) == [Farewell(0)]


def test_a_configured_farewell_is_heard() -> None:
    def script(sock: socket.socket) -> None:
        data = sock.recv(56, socket.MSG_WAITALL)
        assert b"1" not in data
        sock.sendall(data + b"1st call")

    with peer(script) as sock:
        events = list(Session(sock, Plan(farewell=b"1st call", interval=NEVER)).run())
    assert events[-1] == Farewell(56)


def test_a_farewell_is_heard_though_the_server_is_gone_already() -> None:
    """It was sent before the connection was reset, and the client sends into the void."""
    reset = threading.Event()

    def script(sock: socket.socket) -> None:
        sock.sendall(FAREWELL)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        reset.set()

    with peer(script, tcp=True) as sock:
        reset.wait()
        assert list(Session(sock, Plan(timeout=NEVER)).run()) == [Farewell(0)]


def test_a_late_reply_is_reported_but_stays_lost() -> None:
    given_up = threading.Event()

    def script(sock: socket.socket) -> None:
        first = take(sock, 1)
        given_up.wait()
        sock.sendall(first)
        sock.sendall(take(sock, 2))

    with peer(script) as sock:
        plan = Plan(pings=2, interval=0.1, timeout=0.02)
        session = Session(sock, plan)
        run = session.run()
        lost = next(run)
        assert isinstance(lost, Lost)
        assert lost.seq == 1
        assert lost.waited_ms >= plan.timeout * 1000
        given_up.set()
        first, second = run
    assert isinstance(first, RoundTrip)
    assert isinstance(second, RoundTrip)
    assert (first.seq, first.late) == (1, True)
    assert (second.seq, second.late) == (2, False)
    assert (session.sent, session.times.count, session.lost) == (2, 1, 1)


def test_a_server_that_reads_nothing_loses_every_ping() -> None:
    done = threading.Event()

    def script(_sock: socket.socket) -> None:
        done.wait()

    with peer(script) as sock:
        session = Session(sock, Plan(pings=3, interval=0, timeout=0.01, size=MAX_SIZE))
        events = list(session.run())
        done.set()
    assert [event.seq for event in events if isinstance(event, Lost)] == [1, 2, 3]
    assert (session.sent, session.times.count, session.lost) == (3, 0, 3)


def test_a_wrong_byte_ends_the_session() -> None:
    def script(sock: socket.socket) -> None:
        sock.sendall(take(sock, 1).replace(b".", b",", 1))

    with peer(script) as sock:
        session = Session(sock, Plan(timeout=NEVER))
        events = list(session.run())
    assert session.lost == 1
    assert events == [Mismatch(1, 1, expected=ord("."), got=ord(","))]


def test_a_server_that_hangs_up_without_a_word_is_reported() -> None:
    def script(sock: socket.socket) -> None:
        sock.sendall(take(sock, 1) + FAREWELL[:-1])

    with peer(script) as sock:
        session = Session(sock, Plan(interval=NEVER))
        events = list(session.run())
    assert session.lost == 0
    assert seqs(events[:-1]) == [1]
    assert events[-1] == Closed("closed without a farewell")


def test_a_reset_connection_is_reported() -> None:
    def script(sock: socket.socket) -> None:
        take(sock, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with peer(script, tcp=True) as sock:
        assert list(Session(sock, Plan(timeout=NEVER)).run()) == [
            Closed("Connection reset by peer")
        ]


# Ctrl-C.


@contextlib.contextmanager
def interrupted_session(
    sock: socket.socket, plan: Plan
) -> Iterator[tuple[Session, Callable[[], None]]]:
    """A session, and what interrupts it."""
    readable, written = socket.socketpair()
    with readable, written:
        yield Session(sock, plan, readable), lambda: written.sendall(b"\2")


def test_an_interrupt_between_two_pings_ends_the_session() -> None:
    with (
        peer(echo) as sock,
        interrupted_session(sock, Plan(interval=NEVER)) as (session, interrupt),
    ):
        run = session.run()
        assert isinstance(next(run), RoundTrip)
        interrupt()
        assert list(run) == []
    assert (session.sent, session.times.count) == (1, 1)


def test_an_interrupt_does_not_wait_for_a_server_that_never_replied() -> None:
    asked = threading.Event()

    def script(sock: socket.socket) -> None:
        take(sock, 1)
        interrupt()
        asked.wait()

    plan = Plan(timeout=NEVER)
    with peer(script) as sock, interrupted_session(sock, plan) as (session, interrupt):
        (lost,) = session.run()
        asked.set()
    assert isinstance(lost, Lost)


def test_an_interrupt_waits_as_long_as_a_reply_may_take() -> None:
    def script(sock: socket.socket) -> None:
        data = take(sock, 1)
        interrupt()
        sock.sendall(data)

    plan = Plan(timeout=NEVER)
    with peer(script) as sock, interrupted_session(sock, plan) as (session, interrupt):
        session.times.add(60_000_000_000)
        assert seqs(list(session.run())) == [1]
    assert session.sent == 1
