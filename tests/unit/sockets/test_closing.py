"""The end of a connection: tell, half-close, read, close."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from graced.sockets import closing
from support import Client

Pair = tuple[socket.socket, Client]


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return listener.accept()[0], client


@pytest.fixture(params=[tcp_pair, socket.socketpair], ids=["tcp", "unix"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    make: Callable[[], tuple[socket.socket, socket.socket]] = request.param
    ours, theirs = make()
    with ours, Client(theirs) as client:
        yield ours, client


def test_part_sends_last_words_and_end_of_file(pair: Pair) -> None:
    ours, client = pair
    closing.part(ours, b"goodbye")
    assert client.recv_to_end() == b"goodbye"


def test_part_does_not_wait_for_a_client_that_does_not_read(pair: Pair) -> None:
    ours, _ = pair
    ours.setblocking(False)
    try:
        while True:
            ours.send(b"x" * 65536)
    except BlockingIOError:
        ours.setblocking(True)
    closing.part(ours, b"goodbye")


def test_discarded_input_does_not_make_a_reset(pair: Pair) -> None:
    ours, client = pair
    client.send(b"x" * 100_000)
    closing.part(ours, b"goodbye")
    closing.discard(ours)
    ours.close()
    assert client.recv_to_end() == b"goodbye"


BEFORE_A_MINUTE = 30.0
"""Seconds: the kernel would tell the client after sixty."""


@pytest.mark.parametrize("end", [closing.end_both_ways, closing.end_input], ids=["both", "input"])
def test_client_that_found_no_room_hears_that_nobody_reads(
    end: Callable[[socket.socket], None],
) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()) as client:
            ours, _ = listener.accept()
            fill(client)
            end(ours)
            closing.part(ours)
            closing.discard(ours)
            ours.close()
            poll = select.poll()
            poll.register(client, 0)
            assert poll.poll(BEFORE_A_MINUTE * 1000)


def fill(client: socket.socket) -> None:
    """Send until neither kernel has room."""
    poll = select.poll()
    poll.register(client, select.POLLOUT)
    with suppress(BlockingIOError):
        while poll.poll(300):
            client.send(bytes(65536), socket.MSG_DONTWAIT)


def test_end_input_wakes_nobody_but_the_reader(pair: Pair) -> None:
    ours, client = pair
    client.send(b"before")
    closing.end_input(ours)
    assert ours.recv(100) == b"before"
    assert ours.recv(100) == b""
    ours.sendall(b"goodbye")
    assert client.recv() == b"goodbye"


def test_linger_ends_when_the_client_closes(pair: Pair) -> None:
    ours, client = pair
    client.send(b"x" * 1000)
    client.finish()
    began = time.monotonic()
    closing.linger(ours)
    assert time.monotonic() - began < closing.LINGER_TIMEOUT
    client.expect_end()


@pytest.mark.parametrize("close", [closing.end_one_way, closing.end_input, closing.end_both_ways])
def test_socket_that_is_closed_is_no_error(
    pair: Pair, close: Callable[[socket.socket], None]
) -> None:
    pair[0].close()
    close(pair[0])
    closing.discard(pair[0])
    closing.linger(pair[0])


def test_many_are_closed_and_no_other_descriptor() -> None:
    """Neighbours and single ones, one of them closed before."""
    sockets = [socket.socket() for _ in range(8)]
    fds = [sock.fileno() for sock in sockets]
    ours, others = [sockets[n] for n in (6, 0, 1, 2, 4, 7)], [sockets[3], sockets[5]]
    sockets[7].close()
    closing.close_quickly(ours)
    closing.close_quickly([])
    assert [sock.fileno() for sock in ours] == [-1] * 6
    for fd in (fds[n] for n in (0, 1, 2, 4, 6)):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    for sock in others:
        os.fstat(sock.fileno())
        sock.close()
