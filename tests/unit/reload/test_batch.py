"""A batch of clients, sent and received by this one process, over real sockets."""

from __future__ import annotations

import gc
import os
import socket
from contextlib import ExitStack

import pytest

from graced.handover.snapshot import SnapshotError
from graced.loop.client import Client
from graced.loop.phase import GONE
from graced.reload import batch
from graced.reload.channel import Channel, Letter
from graced.reload.table import Message
from support.descriptors import room_for

Ends = tuple[Channel, Channel]


def clients(stack: ExitStack, number: int) -> tuple[list[Client], list[socket.socket]]:
    """Clients of a server, and their own ends."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=number))
    served, peers = [], []
    for _ in range(number):
        peers.append(stack.enter_context(socket.create_connection(listener.getsockname())))
        sock, (host, port) = listener.accept()
        stack.enter_context(sock)
        served.append(Client(sock, host, port, GONE, 12.5))
    return served, peers


def letter_to(channel: Channel) -> Letter:
    letter = channel.receive()
    assert letter
    return letter


def taken(letter: Letter, stack: ExitStack) -> list[Client]:
    found = batch.receive(letter).clients
    for client in found:
        stack.enter_context(client.sock)
    return found


def open_descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_state_and_connection_arrive(ends: Ends, stack: ExitStack) -> None:
    (client, other), (peer, _) = clients(stack, 2)
    client.unsent, client.saved, client.echoed, client.last = b"rest", b"state", 77, 13.5
    batch.send(ends[0], [client, other], "shout")
    first, second = taken(letter_to(ends[1]), stack)
    assert (first.host, first.port, first.since, first.last) == (
        "127.0.0.1",
        client.port,
        12.5,
        13.5,
    )
    assert (first.unsent, first.saved, first.echoed) == (b"rest", b"state", 77)
    assert (second.port, second.unsent, second.saved) == (other.port, b"", None)
    # The old process closes its copy, and the connection goes on.
    client.sock.close()
    first.sock.send(b"hello")
    assert peer.recv(9) == b"hello"


def test_most_clients_of_a_batch_arrive_with_much_state(ends: Ends, stack: ExitStack) -> None:
    served, _ = clients(stack, batch.MAX_CLIENTS)
    for client in served:
        client.unsent = os.urandom(4096)
    batch.send(ends[0], served)
    found = taken(letter_to(ends[1]), stack)
    assert [each.port for each in found] == [each.port for each in served]
    assert [each.unsent for each in found] == [each.unsent for each in served]


def test_answer_divides_the_batch(ends: Ends, stack: ExitStack) -> None:
    served, _ = clients(stack, 3)
    batch.send(ends[0], served)
    found = taken(letter_to(ends[1]), stack)
    batch.answer(ends[1], [found[0], found[2]])
    answer = letter_to(ends[0])
    assert answer.message is Message.TAKEN
    assert batch.divide(served, answer) == ([served[0], served[2]], [served[1]])


@pytest.mark.parametrize("room", [0, 1, 2, 3])
def test_clients_without_room_stay(ends: Ends, stack: ExitStack, room: int) -> None:
    """The kernel cuts the letter where the new process may not have so many descriptors."""
    served, _ = clients(stack, 4)
    batch.send(ends[0], served)
    with room_for(room):
        letter = letter_to(ends[1])
    assert letter.cut
    found = taken(letter, stack)
    assert len(found) == max(0, room - 1)
    batch.answer(ends[1], found)
    went, stays = batch.divide(served, letter_to(ends[0]))
    assert (went, stays) == (served[: len(found)], served[len(found) :])


def test_batch_of_another_version_is_refused_and_closed(ends: Ends, stack: ExitStack) -> None:
    (client,), _ = clients(stack, 1)
    before = open_descriptors()
    with open(os.memfd_create("other"), "wb") as file:
        file.write(b"of the future")
        file.flush()
        ends[0].send(Message.BATCH, descriptors=[file.fileno(), client.sock.fileno()])
    with pytest.raises(SnapshotError):
        batch.receive(letter_to(ends[1]))
    assert open_descriptors() == before


def test_batch_that_is_no_sockets_is_refused_and_closed(ends: Ends, stack: ExitStack) -> None:
    before = open_descriptors()
    with open("/dev/null", "rb") as file:
        ends[0].send(Message.BATCH, descriptors=[file.fileno()] * 2)
    with pytest.raises(OSError, match="socket"):
        batch.receive(letter_to(ends[1]))
    assert open_descriptors() == before
