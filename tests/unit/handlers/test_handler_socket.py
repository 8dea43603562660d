"""The socket of a handler: farewell and handler take turns."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from graced.handlers.handler_socket import HandlerSocket
from support import FAREWELL, PATIENCE, Client

GAP = 0.2
TICK = 0.02
"""Seconds; the kernel counts silence in jiffies."""


class Pair(NamedTuple):
    handler: HandlerSocket
    client: Client


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return listener.accept()[0], client


@pytest.fixture(params=[tcp_pair, socket.socketpair], ids=["tcp", "unix"])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., Pair]]:
    pairs: list[Pair] = []

    def make(farewell: bytes = FAREWELL, gap: float = GAP, *, told: bool = False) -> Pair:
        ours, theirs = request.param()
        pairs.append(Pair(HandlerSocket(ours, farewell, gap, told=told), Client(theirs)))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.handler.close()
        pair.client.close()


def wait_for_the_gap(pair: Pair) -> None:
    """Wait as long as the I/O thread does before it sends pending farewells."""
    time.sleep(max(0.0, GAP - pair.handler.silence) + TICK)


def nothing_to_read(client: Client) -> bool:
    client.sock.setblocking(False)
    try:
        client.recv()
    except BlockingIOError:
        return True
    finally:
        client.sock.settimeout(PATIENCE)
    return False


def test_quiet_connection_gets_farewell_at_once_and_once(make: Callable[..., Pair]) -> None:
    pair = make()
    wait_for_the_gap(pair)
    for insist in (False, False, True):
        pair.handler.send_farewell(insist=insist)
    pair.client.expect_farewell_alone()
    assert nothing_to_read(pair.client)


def test_farewell_after_write_waits_for_gap(make: Callable[..., Pair]) -> None:
    pair = make()
    pair.handler.sendall(b"hello")
    pair.handler.send_farewell(insist=False)
    assert pair.client.recv() == b"hello"
    assert nothing_to_read(pair.client)
    wait_for_the_gap(pair)
    pair.handler.send_farewell(insist=False)
    pair.client.expect_farewell_alone()


def test_overdue_farewell_follows_next_write(make: Callable[..., Pair]) -> None:
    pair = make()
    pair.handler.send_farewell(insist=False)
    pair.handler.sendall(b"hello")
    pair.handler.send_farewell(insist=True)
    assert pair.client.recv_exactly(5 + len(FAREWELL)) == b"hello" + FAREWELL


@pytest.mark.parametrize("make", [tcp_pair], indirect=True)
def test_farewell_waits_for_write_that_may_be_under_way(make: Callable[..., Pair]) -> None:
    """A write that began without the lock may have more bytes to send."""
    pair = make()
    pair.handler.sendall(b"hello")
    pair.handler.send_farewell(insist=True)
    assert pair.client.recv() == b"hello"
    assert nothing_to_read(pair.client)
    wait_for_the_gap(pair)
    pair.handler.send_farewell(insist=True)
    pair.client.expect_farewell_alone()


def test_read_waits_for_gap_and_sends_farewell_first(make: Callable[..., Pair]) -> None:
    pair = make()
    pair.handler.sendall(b"hello")
    pair.handler.send_farewell(insist=False)
    pair.client.send(b"more")
    assert pair.client.recv() == b"hello"
    assert pair.handler.recv(100) == b"more"
    pair.client.expect_farewell_alone()


def test_first_write_after_farewell_waits_for_gap(
    make: Callable[..., Pair],
) -> None:
    pair = make()
    wait_for_the_gap(pair)
    pair.handler.send_farewell(insist=False)
    pair.client.send(b"hello?")
    began = time.monotonic()
    assert pair.handler.recv(100) == b"hello?"
    pair.client.expect_farewell_alone()
    pair.handler.sendall(b"yes")
    assert time.monotonic() - began >= GAP
    assert pair.client.recv() == b"yes"


def test_client_with_farewell_gets_no_second_farewell(make: Callable[..., Pair]) -> None:
    pair = make(told=True)
    wait_for_the_gap(pair)
    for insist in (False, True):
        pair.handler.send_farewell(insist=insist)
    pair.handler.sendall(b"hello")
    assert pair.client.recv() == b"hello"
    assert nothing_to_read(pair.client)


def test_empty_farewell_is_not_sent_and_no_call_waits(make: Callable[..., Pair]) -> None:
    pair = make(farewell=b"", gap=3600.0)
    for insist in (False, True):
        pair.handler.send_farewell(insist=insist)
    pair.client.send(b"hello")
    assert pair.handler.recv(100) == b"hello"
    pair.handler.sendall(b"hello")
    assert pair.client.recv() == b"hello"


def test_handler_socket_sends_farewell_between_writes(make: Callable[..., Pair]) -> None:
    """A write that blocks delays the farewell, which follows that write or the next write."""
    pair = make()
    big = b"x" * 10_000_000
    writer = threading.Thread(target=pair.handler.sendall, args=(big,))
    writer.start()
    head = pair.client.recv_exactly(1000)
    pair.handler.send_farewell(insist=True)
    rest = pair.client.recv_exactly(len(big) - 1000)
    writer.join()
    pair.handler.sendall(b"y")
    tail = pair.client.recv_exactly(1 + len(FAREWELL))
    assert head + rest == big
    assert tail in {FAREWELL + b"y", b"y" + FAREWELL}


@pytest.mark.parametrize("timeout", [None, 3600.0, 0.0])
def test_sending_farewell_never_blocks(make: Callable[..., Pair], timeout: float | None) -> None:
    """The rest of a farewell that does not fit is sent before the handler's next write."""
    farewell = b"long farewell " * 200_000
    pair = make(farewell)
    pair.handler.settimeout(timeout)
    wait_for_the_gap(pair)
    pair.handler.send_farewell(insist=False)
    pair.handler.settimeout(None)
    writer = threading.Thread(target=pair.handler.sendall, args=(b"hello",))
    writer.start()
    received = pair.client.recv_exactly(len(farewell) + 5)
    writer.join()
    assert received == farewell + b"hello"


@pytest.mark.parametrize("timeout", [None, 3600.0])
def test_remaining_client_gets_farewell_at_end(
    make: Callable[..., Pair], timeout: float | None
) -> None:
    pair = make()
    pair.handler.settimeout(timeout)
    pair.handler.sendall(b"bye")
    assert pair.client.recv() == b"bye"
    for _ in range(2):
        pair.handler.send_farewell_at_end()
    pair.client.expect_farewell_alone()
    assert nothing_to_read(pair.client)


def test_departed_client_gets_no_farewell_at_end(make: Callable[..., Pair]) -> None:
    pair = make()
    pair.client.finish()
    pair.handler.send_farewell_at_end()
    assert nothing_to_read(pair.client)


def test_handler_that_reads_in_a_loop_sends_farewell(make: Callable[..., Pair]) -> None:
    """Even if a read was under way when the farewell became due."""
    pair = make()
    answers: list[bytes] = []

    def handle() -> None:
        while data := pair.handler.recv(100):
            answers.append(data)
            pair.handler.sendall(data)

    handler = threading.Thread(target=handle)
    handler.start()
    pair.client.echo(b"one")
    pair.handler.send_farewell(insist=False)
    pair.client.send(b"two")
    heard = pair.client.recv_exactly(len(b"two" + FAREWELL))
    pair.client.send(b"three")
    heard += pair.client.recv_exactly(len(b"three"))
    pair.client.sock.shutdown(socket.SHUT_WR)
    handler.join()
    assert heard in {b"two" + FAREWELL + b"three", FAREWELL + b"twothree"}


def test_threads_that_send_farewell_at_once_send_one(make: Callable[..., Pair]) -> None:
    for _ in range(20):
        pair = make(gap=0.0)
        start = threading.Barrier(4)

        def send(pair: Pair = pair, start: threading.Barrier = start) -> None:
            start.wait()
            pair.handler.send_farewell(insist=True)

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pair.handler.sendall(b"hello")
        pair.handler.close()
        assert pair.client.recv_to_end() == FAREWELL + b"hello"


def test_farewell_to_departed_client_is_no_error(make: Callable[..., Pair]) -> None:
    pair = make()
    pair.client.close()
    pair.handler.send_farewell(insist=True)
    # The kernel may accept a first write, which the client answers with a reset.
    with suppress(ConnectionError):
        pair.handler.sendall(b"hello")
    with pytest.raises(ConnectionError):
        pair.handler.sendall(b"hello")


def test_farewell_on_detached_socket_is_no_error(make: Callable[..., Pair]) -> None:
    pair = make()
    with socket.socket(fileno=pair.handler.detach()) as elsewhere:
        pair.handler.send_farewell(insist=True)
        elsewhere.sendall(b"hello")
    assert pair.client.recv_to_end() == b"hello"


# The calls of a socket.


def test_calls_that_read(make: Callable[..., Pair]) -> None:
    pair = make()
    buffer = bytearray(4)
    pair.client.send(b"abcdefghijklmnop")
    assert pair.handler.recv(1, socket.MSG_PEEK) == b"a"
    assert pair.handler.recv(4) == b"abcd"
    assert pair.handler.recv_into(buffer) == 4
    assert buffer == b"efgh"
    assert pair.handler.recv_into(buffer, nbytes=2, flags=0) == 2
    assert buffer == b"ijgh"
    data, *_ = pair.handler.recvmsg(4)
    assert data == b"klmn"
    with pair.handler.makefile("rb") as file:
        assert file.read(2) == b"op"


def test_calls_that_write_are_counted(make: Callable[..., Pair], tmp_path: Path) -> None:
    pair = make()
    (tmp_path / "file").write_bytes(b"klmno")
    assert pair.handler.send(b"ab") == 2
    pair.handler.sendall(memoryview(b"cd"))
    assert pair.handler.sendmsg([b"ef", b"gh"]) == 4
    with pair.handler.makefile("wb", buffering=0) as stream:
        stream.write(b"ij")
    with (tmp_path / "file").open("rb") as file:
        assert pair.handler.sendfile(file) == 5
    assert pair.handler.written == 15
    with pair.handler.dup() as double:
        assert type(double) is socket.socket
        double.sendall(b"p")
    assert pair.client.recv_exactly(16) == b"abcdefghijklmnop"


def test_written_bytes_are_known_after_close(make: Callable[..., Pair]) -> None:
    for finish in ("close", "detach"):
        pair = make()
        pair.handler.sendall(b"hello")
        pair.handler.send_farewell(insist=True)
        fd = pair.handler.fileno()
        getattr(pair.handler, finish)()
        if finish == "detach":
            socket.close(fd)
        assert pair.handler.written == 5


def test_handler_socket_takes_over_descriptor() -> None:
    ours, theirs = socket.socketpair()
    fd = ours.fileno()
    with HandlerSocket(ours, FAREWELL, GAP, told=False) as handler, theirs:
        assert isinstance(handler, socket.socket)
        assert handler.fileno() == fd
        assert ours.fileno() == -1
