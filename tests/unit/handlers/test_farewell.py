"""The socket of a handler: farewell and handler take turns."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from graced.handlers import rest
from graced.handlers.goodbye import Stage
from graced.handlers.handler_socket import HandlerSocket
from handlers.pair import (
    GAP,
    TICK,
    Make,
    Pair,
    Running,
    answer_lines,
    nothing_to_read,
    say_goodbye,
    wait_for_the_gap,
)
from support import FAREWELL, PATIENCE


def test_quiet_connection_gets_farewell_at_once_and_once(make: Make) -> None:
    pair = make()
    wait_for_the_gap(pair)
    for _ in range(3):
        assert say_goodbye(pair) == 0.0
    pair.client.expect_farewell_alone()
    assert nothing_to_read(pair.client)


def test_farewell_after_write_waits_for_gap(make: Make) -> None:
    pair = make()
    pair.handler.sendall(b"hello")
    assert 0.0 < say_goodbye(pair) <= GAP
    assert pair.client.recv() == b"hello"
    assert nothing_to_read(pair.client)
    wait_for_the_gap(pair)
    say_goodbye(pair)
    pair.client.expect_farewell_alone()


def test_read_waits_for_gap_and_sends_farewell_first(make: Make) -> None:
    """A client that answers whatever comes leaves no gap by itself."""
    pair = make()
    pair.handler.begin_drain()
    pair.handler.sendall(b"hello")
    assert pair.client.recv() == b"hello"
    pair.client.send(b"more")
    assert pair.handler.recv(100) == b"more"
    pair.client.expect_farewell_alone()


def test_drain_that_begins_in_a_read_counts_its_bytes_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that had arrived is answered first, and what this read has taken has been read."""
    pair = make()
    # It was frozen, and its calls are noted.
    pair.handler.thaw()
    pair.client.send(b"one, two")
    measure = rest._length

    def measure_later(received: bytes) -> int:
        monkeypatch.undo()
        pair.handler.begin_drain()
        return measure(received)

    monkeypatch.setattr(rest, "_length", measure_later)
    for message in (b"one,", b" two"):
        assert pair.handler.recv(4) == message
        assert nothing_to_read(pair.client)
        pair.handler.sendall(message)
        assert pair.client.recv() == message
    pair.client.send(b"more")
    assert pair.handler.recv(4) == b"more"
    pair.client.expect_farewell_alone()


def test_first_write_after_farewell_waits_for_gap(
    make: Make,
) -> None:
    pair = make()
    wait_for_the_gap(pair)
    say_goodbye(pair)
    pair.client.send(b"hello?")
    began = time.monotonic()
    assert pair.handler.recv(100) == b"hello?"
    pair.client.expect_farewell_alone()
    pair.handler.sendall(b"yes")
    assert time.monotonic() - began >= GAP
    assert pair.client.recv() == b"yes"


def test_client_with_farewell_gets_no_second_farewell(make: Make) -> None:
    pair = make(told=True)
    wait_for_the_gap(pair)
    assert say_goodbye(pair) == 0.0
    pair.handler.sendall(b"hello")
    assert pair.client.recv() == b"hello"
    assert nothing_to_read(pair.client)


def test_empty_farewell_says_nothing_and_no_call_waits(make: Make) -> None:
    pair = make(farewell=b"", gap=3600.0)
    assert say_goodbye(pair) == 0.0
    pair.client.send(b"hello")
    assert pair.handler.recv(100) == b"hello"
    pair.handler.sendall(b"hello")
    assert pair.client.recv() == b"hello"


def test_write_of_nothing_answers_nothing(make: Make) -> None:
    pair = make(None)
    pair.handler.begin_drain()
    pair.client.send(b"half a ")
    assert pair.handler.recv(100) == b"half a "
    pair.handler.sendall(b"")
    pair.handler.sendmsg([b""])
    wait_for_the_gap(pair)
    assert say_goodbye(pair) > 0.0
    assert nothing_to_read(pair.client)
    assert not pair.handler.is_at_rest


def test_farewell_is_not_inside_a_write(make: Make) -> None:
    pair = make()
    big = b"x" * 10_000_000

    def write(request: HandlerSocket) -> None:
        request.sendall(big)
        while request.recv(100):
            pass

    with Running(pair, write) as handler:
        head = pair.client.recv_exactly(1000)
        for _ in range(3):
            assert say_goodbye(pair) > 0
        assert head + pair.client.recv_exactly(len(big) - 1000) == big
        handler.goodbye()
        pair.client.expect_farewell_alone()


def test_farewell_is_not_inside_sendfile(make: Make, tmp_path: Path) -> None:
    pair = make()
    big = bytes(range(256)) * 40_000
    (tmp_path / "file").write_bytes(big)

    def write(request: HandlerSocket) -> None:
        with (tmp_path / "file").open("rb") as file:
            request.sendfile(file)
        while request.recv(100):
            pass

    with Running(pair, write) as handler:
        head = pair.client.recv_exactly(1000)
        pair.handler.begin_drain()
        for _ in range(3):
            assert pair.handler.say_goodbye() > 0
            wait_for_the_gap(pair)
        assert head + pair.client.recv_exactly(len(big) - 1000) == big
        handler.goodbye()
        pair.client.expect_farewell_alone()


@pytest.mark.parametrize("timeout", [None, 3600.0, 0.0])
def test_sending_farewell_never_blocks(make: Make, timeout: float | None) -> None:
    """The rest of a farewell that does not fit is sent before the handler's next write."""
    farewell = b"long farewell " * 200_000
    pair = make(farewell)
    pair.handler.settimeout(timeout)
    wait_for_the_gap(pair)
    say_goodbye(pair)
    pair.handler.settimeout(None)
    writer = threading.Thread(target=pair.handler.sendall, args=(b"hello",))
    writer.start()
    received = pair.client.recv_exactly(len(farewell) + 5)
    writer.join()
    assert received == farewell + b"hello"


@pytest.mark.parametrize("timeout", [None, 3600.0])
def test_remaining_client_gets_farewell_at_end(make: Make, timeout: float | None) -> None:
    pair = make()
    pair.handler.settimeout(timeout)
    pair.handler.sendall(b"bye")
    assert pair.client.recv() == b"bye"
    for _ in range(2):
        pair.handler.tell_at_end()
    pair.client.expect_farewell_alone()
    assert nothing_to_read(pair.client)


def test_departed_client_gets_no_farewell_at_end(make: Make) -> None:
    pair = make()
    pair.client.finish()
    pair.handler.tell_at_end()
    assert nothing_to_read(pair.client)


@pytest.mark.parametrize("half_closes", [False, True])
def test_farewell_that_finds_no_room_comes_at_the_end(make: Make, half_closes: bool) -> None:
    """The handler has answered, and returns, and its client has not taken the answer yet."""
    pair = make(gap=0.0)
    answer = fill(pair.handler)
    if half_closes:
        pair.client.finish()
    pair.handler.thread = threading.current_thread()
    pair.handler.begin_drain()
    if half_closes:
        assert pair.handler.recv(1) == b""
    with Running(pair, HandlerSocket.tell_at_end) as handler:
        # Over: the kernel has found room after all.  An ordinary user may not look at a thread that
        # is just ending.
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            handler.wait_until_asleep()
        assert pair.client.recv_exactly(len(answer)) == answer
        assert pair.client.recv_exactly(len(FAREWELL)) == FAREWELL


def fill(request: HandlerSocket) -> bytes:
    """Write until the kernel takes not even a byte; return what was written."""
    written, before = bytearray(), -1
    request.setblocking(False)
    while len(written) > before:
        before = len(written)
        # The kernel moves bytes for a moment after it was full, and says when there is room.
        select.select([], [request], [], TICK)
        for size in (65536, 1):
            with suppress(BlockingIOError):
                while True:
                    written += bytes(request.send(bytes(size)))
    request.setblocking(True)
    return bytes(written)


def test_client_in_mid_answer_gets_no_farewell_at_the_deadline(make: Make) -> None:
    pair = make()
    gate = threading.Event()

    def answer_in_two_parts(request: HandlerSocket) -> None:
        request.sendall(b"one, ")
        assert gate.wait(PATIENCE)
        with suppress(BrokenPipeError):
            request.sendall(b"two")

    with Running(pair, answer_in_two_parts) as handler:
        assert pair.client.recv() == b"one, "
        handler.wait_until_asleep()
        assert not pair.handler.tell_at_deadline()
        pair.handler.end()
        assert pair.client.recv_to_end() == b""
        gate.set()


def test_client_at_rest_gets_farewell_at_the_deadline(make: Make) -> None:
    pair = make(gap=3600.0)
    with Running(pair, answer_lines) as handler:
        handler.wait_until_asleep()
        assert pair.handler.tell_at_deadline()
        pair.handler.end()
        assert pair.client.recv_to_end() == FAREWELL


def test_threads_that_say_goodbye_at_once_send_one_farewell(make: Make) -> None:
    for _ in range(20):
        pair = make(gap=0.0)
        start = threading.Barrier(4)

        def send(pair: Pair = pair, start: threading.Barrier = start) -> None:
            start.wait()
            say_goodbye(pair)

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pair.handler.sendall(b"hello")
        pair.handler.close()
        assert pair.client.recv_to_end() == FAREWELL + b"hello"


def test_farewell_to_departed_client_is_no_error(make: Make) -> None:
    pair = make(gap=0.0)
    pair.client.close()
    say_goodbye(pair)
    # The kernel may accept a first write, which the client answers with a reset.
    with suppress(ConnectionError):
        pair.handler.sendall(b"hello")
    with pytest.raises(ConnectionError):
        pair.handler.sendall(b"hello")


@pytest.mark.parametrize("farewell", [None, FAREWELL])
def test_goodbye_on_detached_socket_is_no_error(make: Make, farewell: bytes | None) -> None:
    pair = make(farewell=farewell, gap=0.0)
    with socket.socket(fileno=pair.handler.detach()) as elsewhere:
        say_goodbye(pair)
        elsewhere.sendall(b"hello")
    assert pair.client.recv_to_end() == b"hello"


LONG_GAP = 10 * PATIENCE
"""Longer than `Running` waits for the end of a handler."""


def write(request: HandlerSocket) -> None:
    with suppress(BrokenPipeError):
        request.sendall(b"hello")


@pytest.mark.parametrize(
    ("call", "stage"),
    [
        (lambda request: request.recv(1), Stage.PENDING),
        (HandlerSocket.tell_at_end, Stage.PENDING),
        (write, Stage.FAREWELL_SENT),
    ],
    ids=["reads", "returns", "writes"],
)
def test_handler_that_waits_for_the_gap_ends_at_the_deadline(
    make: Make, call: Callable[[HandlerSocket], None], stage: int
) -> None:
    pair = make(gap=LONG_GAP)
    pair.handler.sendall(b"hello")
    pair.handler.begin_drain()
    pair.handler._stage = stage
    with Running(pair, call) as handler:
        handler.wait_until_asleep()
        pair.handler.end()
        assert pair.client.recv_to_end() == b"hello"
