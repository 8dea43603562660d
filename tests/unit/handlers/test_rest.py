"""The socket of a handler: the goodbye of a client at rest."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest

from graced.handlers.handler_socket import HandlerSocket
from handlers.pair import (
    Make,
    Running,
    answer_lines,
    nothing_to_read,
    say_goodbye,
    tcp_pair,
    wait_for_the_gap,
)
from support import FAREWELL, PATIENCE, Client


def test_waiting_read_of_client_at_rest_ends(make: Make) -> None:
    pair = make(farewell=None)
    with Running(pair, answer_lines) as handler:
        pair.client.send(b"hello\n")
        assert pair.client.recv() == b"HELLO\n"
        handler.goodbye()
        assert pair.client.recv() == b"bye"


def test_waiting_read_of_silent_client_ends(make: Make) -> None:
    pair = make(farewell=None)
    with Running(pair, answer_lines) as handler:
        handler.wait_until_asleep()
        handler.goodbye()
        assert pair.client.recv() == b"bye"


@pytest.mark.parametrize("farewell", [None, FAREWELL])
@pytest.mark.parametrize("before", [0, 1, 3], ids=lambda number: f"after {number}")
def test_half_a_request_is_not_at_rest(make: Make, farewell: bytes | None, before: int) -> None:
    """Also where it came right after the answer to the request before."""
    pair = make(farewell=farewell)
    with Running(pair, answer_lines) as handler:
        for _ in range(before):
            pair.client.send(b"hello\n")
            assert pair.client.recv() == b"HELLO\n"
        pair.client.send(b"wor")
        handler.wait_until_asleep()
        wait_for_the_gap(pair)
        for _ in range(3):
            assert say_goodbye(pair) > 0
        pair.client.send(b"ld\n")
        assert pair.client.recv_exactly(6) == b"WORLD\n"
        handler.goodbye()
        assert pair.client.recv() == (farewell or b"bye")


@pytest.mark.parametrize("farewell", [None, FAREWELL])
def test_half_a_request_behind_another_is_not_at_rest(make: Make, farewell: bytes | None) -> None:
    """It has been read already, with the request before, which is answered in the drain."""
    pair = make(farewell=farewell)
    gate = threading.Event()

    def answer_slowly(request: HandlerSocket) -> None:
        with request.makefile("rb") as lines:
            for line in lines:
                assert gate.wait(PATIENCE)
                request.sendall(line.upper())
        request.sendall(b"bye")

    with Running(pair, answer_slowly) as handler:
        pair.client.send(b"hello\nwor")
        handler.wait_until_asleep()
        assert say_goodbye(pair) > 0
        gate.set()
        assert pair.client.recv() == b"HELLO\n"
        wait_for_the_gap(pair)
        for _ in range(3):
            assert say_goodbye(pair) > 0
        assert nothing_to_read(pair.client)
        pair.client.send(b"ld\n")
        assert pair.client.recv_exactly(6) == b"WORLD\n"
        handler.goodbye()
        assert pair.client.recv() == (farewell or b"bye")


@pytest.mark.parametrize("timeout", [None, 3600.0])
def test_farewell_does_not_come_between_two_writes(make: Make, timeout: float | None) -> None:
    """However long the handler pauses; a handler that waits in a read gets it at once."""
    pair = make()
    pair.handler.settimeout(timeout)
    gate = threading.Event()

    def answer_in_two_parts(request: HandlerSocket) -> None:
        while request.recv(100):
            request.sendall(b"one, ")
            assert gate.wait(PATIENCE)
            request.sendall(b"two")

    with Running(pair, answer_in_two_parts) as handler:
        pair.client.send(b"hello")
        assert pair.client.recv() == b"one, "
        handler.wait_until_asleep()
        wait_for_the_gap(pair)
        assert say_goodbye(pair) > 0
        assert nothing_to_read(pair.client)
        gate.set()
        assert pair.client.recv() == b"two"
        handler.goodbye()
        pair.client.expect_farewell_alone()


@pytest.mark.parametrize("timeout", [None, 3600.0])
def test_read_that_waits_since_before_the_drain_is_seen(make: Make, timeout: float | None) -> None:
    pair = make()
    pair.handler.settimeout(timeout)
    with Running(pair, answer_lines) as handler:
        handler.wait_until_asleep()
        handler.goodbye()
        pair.client.expect_farewell_alone()


def test_request_that_races_with_end_of_file_is_answered() -> None:
    """Linux delivers what arrives after SHUT_RD, over TCP."""
    ours, theirs = tcp_pair()
    with HandlerSocket(ours, None, 0.0, told=False) as handler, Client(theirs) as client:
        handler.begin_drain()
        assert handler.say_goodbye() == 0.0
        client.send(b"hello\n")
        client.finish()
        answer_lines(handler)
        assert client.recv_exactly(9) == b"HELLO\nbye"


def test_client_that_pipelines_gets_all_answers_first(make: Make) -> None:
    pair = make()
    pair.client.send(b"a\nb\n")
    pair.client.send(b"ccccccccc\n" * 1000)
    pair.handler.begin_drain()
    with Running(pair, answer_lines) as handler:
        assert pair.client.recv_exactly(10004) == b"A\nB\n" + b"CCCCCCCCC\n" * 1000
        handler.goodbye()
        pair.client.expect_farewell_alone()


def test_method_says_farewell_or_returns_it(make: Make) -> None:
    pair = make(farewell=None)
    pair.handler.words = lambda: b"503 for you"
    with Running(pair, answer_lines) as handler:
        handler.goodbye()
        pair.client.expect_farewell_alone(b"503 for you")
        pair.client.send(b"hello\n")
        assert pair.client.recv() == b"HELLO\n"


def test_method_without_bytes_says_it_itself(make: Make) -> None:
    pair = make(farewell=None)
    pair.handler.words = lambda: pair.handler.sendall(b"503, ")
    with Running(pair, answer_lines) as handler:
        handler.goodbye()
        assert pair.client.recv_exactly(8) == b"503, bye"


def test_method_that_hangs_delays_no_other(make: Make) -> None:
    gate = threading.Event()
    pairs = [make(farewell=None) for _ in range(2)]

    def hang() -> bytes:
        assert gate.wait(PATIENCE)
        return b"late"

    pairs[0].handler.words = hang
    wait_for_the_gap(pairs[1])
    for pair in pairs:
        say_goodbye(pair)
    assert pairs[1].handler.recv(1) == b""
    gate.set()
    pairs[0].client.expect_farewell_alone(b"late")


def test_writer_and_reader_in_two_threads_do_not_wait_for_each_other(
    make: Make,
) -> None:
    """A look into the file of a reader would wait until its read ends."""
    pair = make(farewell=None)
    with pair.handler.makefile("rb") as lines:
        reader = threading.Thread(target=lines.readline)
        reader.start()
        with Running(pair, lambda request: request.sendall(b"before")):
            assert pair.client.recv() == b"before"
            pair.handler.begin_drain()
            pair.handler.thread = threading.current_thread()
            pair.handler.sendall(b"in the drain")
            assert pair.client.recv() == b"in the drain"
        reader.join()


@pytest.mark.parametrize("drain_first", [True, False])
def test_farewell_does_not_come_between_two_writes_while_another_thread_reads(
    make: Make, *, drain_first: bool
) -> None:
    pair = make()
    gate = threading.Event()

    def read(request: HandlerSocket) -> None:
        with suppress(ConnectionError):
            while request.recv(100):
                pass

    def write(request: HandlerSocket) -> None:
        if drain_first:
            request.begin_drain()
        reader = threading.Thread(target=read, args=(request,))
        reader.start()
        request.sendall(b"one, ")
        assert gate.wait(PATIENCE)
        request.sendall(b"two")
        reader.join()

    with Running(pair, write) as handler:
        assert pair.client.recv() == b"one, "
        handler.wait_until_asleep()
        wait_for_the_gap(pair)
        assert say_goodbye(pair) > 0
        assert nothing_to_read(pair.client)
        gate.set()
        assert pair.client.recv() == b"two"
