"""The echo client's conduct on a real socket."""

from __future__ import annotations

import contextlib
import math
import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.ctl.matcher import FAREWELL, MAX_SIZE, Farewell, Mismatch, payload
from graced.ctl.session import Closed, Event, Lost, Plan, RoundTrip, RoundTripTimes, Session

NEVER = 3600.0
"""Seconds that no test takes: another event ends a wait of this length."""


@given(st.lists(st.integers(0, 10**11), min_size=1))
def test_figures_are_those_of_the_statistics_module(rtts: list[int]) -> None:
    times = RoundTripTimes()
    for rtt in rtts:
        times.add(rtt)
    figures = times.figures_ms()
    assert figures is not None
    assert figures["min"] == min(rtts) / 1e6
    assert figures["max"] == max(rtts) / 1e6
    assert math.isclose(figures["avg"], statistics.fmean(rtts) / 1e6)
    assert math.isclose(figures["mdev"], statistics.pstdev(rtts) / 1e6, abs_tol=1e-6)


def test_no_figures_without_a_reply() -> None:
    assert RoundTripTimes().figures_ms() is None


# The session: a scripted server at the other end of a real connection.


@contextlib.contextmanager
def peer(script: Callable[[socket.socket], None], *, tcp: bool = False) -> Iterator[socket.socket]:
    """A connected socket; at the other end a thread runs `script` and closes.

    The thread is joined, and an exception of the script is raised here.
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


def test_interval_is_kept_between_two_pings() -> None:
    with peer(echo) as sock:
        interval, started = 0.02, time.monotonic()
        assert seqs(list(Session(sock, Plan(pings=3, interval=interval)).run())) == [1, 2, 3]
        assert time.monotonic() - started >= 2 * interval


@pytest.mark.parametrize("tcp", [False, True])
def test_largest_payload_crosses_buffers_smaller_than_itself(tcp: bool) -> None:
    with peer(echo, tcp=tcp) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        session = Session(sock, Plan(pings=2, interval=0, size=MAX_SIZE))
        assert seqs(list(session.run())) == [1, 2]


def test_farewell_between_two_pings_is_heard_at_once() -> None:
    def script(sock: socket.socket) -> None:
        sock.sendall(take(sock, 1))
        sock.sendall(FAREWELL)
        assert sock.recv(1) == b"", "nothing may be sent after the farewell"

    with peer(script) as sock:
        events = list(Session(sock, Plan(interval=NEVER)).run())
    assert seqs(events[:-1]) == [1]
    assert events[-1] == Farewell(56)


@pytest.mark.parametrize("behind", [b"", payload(2, 56), b"anything"])
def test_farewell_glued_to_an_echo_is_heard(behind: bytes) -> None:
    def script(sock: socket.socket) -> None:
        sock.sendall(take(sock, 1) + FAREWELL + behind)

    with peer(script) as sock:
        session = Session(sock, Plan(pings=1))
        events = list(session.run())
    assert seqs(events[:-1]) == [1]
    assert events[-1] == Farewell(56)
    assert session.sent == session.times.count == 1


def test_farewell_inside_an_echo_and_in_pieces_is_heard() -> None:
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


def test_farewell_instead_of_the_echo_is_heard() -> None:
    def script(sock: socket.socket) -> None:
        take(sock, 1)
        sock.sendall(FAREWELL)

    with peer(script) as sock:
        assert list(Session(sock, Plan(timeout=NEVER)).run()) == [Farewell(0)]


def test_configured_farewell_is_heard() -> None:
    def script(sock: socket.socket) -> None:
        data = sock.recv(56, socket.MSG_WAITALL)
        assert b"1" not in data
        sock.sendall(data + b"1st call")

    with peer(script) as sock:
        events = list(Session(sock, Plan(farewell=b"1st call", interval=NEVER)).run())
    assert events[-1] == Farewell(56)


def test_farewell_is_heard_though_the_server_is_gone_already() -> None:
    """The farewell was sent before the reset, and the client sends to a socket that is gone."""
    reset = threading.Event()

    def script(sock: socket.socket) -> None:
        sock.sendall(FAREWELL)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        reset.set()

    with peer(script, tcp=True) as sock:
        reset.wait()
        assert list(Session(sock, Plan(timeout=NEVER)).run()) == [Farewell(0)]


def test_late_reply_is_reported_but_stays_lost() -> None:
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


def test_server_that_reads_nothing_loses_every_ping() -> None:
    done = threading.Event()

    def script(_sock: socket.socket) -> None:
        done.wait()

    with peer(script) as sock:
        session = Session(sock, Plan(pings=3, interval=0, timeout=0.01, size=MAX_SIZE))
        events = list(session.run())
        done.set()
    assert [event.seq for event in events if isinstance(event, Lost)] == [1, 2, 3]
    assert (session.sent, session.times.count, session.lost) == (3, 0, 3)


def test_wrong_byte_ends_the_session() -> None:
    def script(sock: socket.socket) -> None:
        sock.sendall(take(sock, 1).replace(b".", b",", 1))

    with peer(script) as sock:
        session = Session(sock, Plan(timeout=NEVER))
        events = list(session.run())
    assert session.lost == 1
    assert events == [Mismatch(1, 1, expected=ord("."), got=ord(","))]


def test_close_without_a_farewell_is_reported() -> None:
    def script(sock: socket.socket) -> None:
        sock.sendall(take(sock, 1) + FAREWELL[:-1])

    with peer(script) as sock:
        session = Session(sock, Plan(interval=NEVER))
        events = list(session.run())
    assert session.lost == 0
    assert seqs(events[:-1]) == [1]
    assert events[-1] == Closed("closed without a farewell")


def test_reset_connection_is_reported() -> None:
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
    """A session, and the socket that interrupts the session."""
    readable, written = socket.socketpair()
    with readable, written:
        yield Session(sock, plan, readable), lambda: written.sendall(b"\2")


def test_interrupt_between_two_pings_ends_the_session() -> None:
    with (
        peer(echo) as sock,
        interrupted_session(sock, Plan(interval=NEVER)) as (session, interrupt),
    ):
        run = session.run()
        assert isinstance(next(run), RoundTrip)
        interrupt()
        assert list(run) == []
    assert (session.sent, session.times.count) == (1, 1)


def test_interrupt_does_not_wait_for_a_server_that_never_replied() -> None:
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


def test_interrupt_waits_as_long_as_a_reply_may_take() -> None:
    def script(sock: socket.socket) -> None:
        data = take(sock, 1)
        interrupt()
        sock.sendall(data)

    plan = Plan(timeout=NEVER)
    with peer(script) as sock, interrupted_session(sock, plan) as (session, interrupt):
        session.times.add(60_000_000_000)
        assert seqs(list(session.run())) == [1]
    assert session.sent == 1
