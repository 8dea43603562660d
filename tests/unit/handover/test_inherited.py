"""What a process inherits, from descriptors as the service manager passes them."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from graced.handover.fdstore import CLIENTS, LISTENERS, MIRRORED
from graced.handover.inherited import Inherited
from graced.handover.snapshot import encode
from graced.log import events
from graced.loop.client import Client
from handover.last_process import COUNTS, FROZEN, KINDS, LastProcess

UNKNOWN = "graced-of-another-version"


@pytest.fixture
def inherit(stack: ExitStack, last: LastProcess) -> Callable[[], Inherited]:
    """What the next process finds."""

    def inherit() -> Inherited:
        found = Inherited(last.passed)
        stack.callback(found.close)
        for sock in (*found.listeners.sockets, *(client.sock for client in found.clients)):
            stack.enter_context(sock)
            assert not sock.getblocking()
            assert not sock.get_inheritable()
        return found

    return inherit


Inherit = Callable[[], Inherited]


def names(clients: list[Client]) -> list[str]:
    return [str(client) for client in clients]


def test_no_descriptors_are_nothing(inherit: Inherit) -> None:
    found = inherit()
    assert [*found.names, *found.others, *found.listeners.sockets, *found.clients] == []
    assert not found.frozen


def test_descriptors_of_others_are_not_touched(inherit: Inherit, last: LastProcess) -> None:
    # Numbers of no open descriptor: looking at them would fail.
    last.passed += [(1000001, "graced.socket"), (1000002, ""), (1000003, "connection")]
    found = inherit()
    assert found.others == [1000001, 1000002, 1000003]
    assert not found.names


def test_unknown_descriptor_is_closed(inherit: Inherit, last: LastProcess) -> None:
    read, write = os.pipe()
    os.close(read)
    last.passed.append((write, UNKNOWN))
    found = inherit()
    assert not found.others
    assert found.names == {UNKNOWN}
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(write)


@pytest.mark.parametrize("name", ["graced-lan.socket", "graced-lan"])
def test_listener_of_a_socket_unit_with_a_name_like_ours_is_passed(
    inherit: Inherit, last: LastProcess, name: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        last.passed.append((sock.fileno(), name))
        found = inherit()
        assert found.others == [sock.fileno()]
        assert not found.names
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def test_datagram_socket_of_a_socket_unit_with_a_name_like_ours_is_passed(
    inherit: Inherit, last: LastProcess
) -> None:
    """So that the start is refused with the reason."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        last.passed.append((sock.fileno(), "graced-lan.socket"))
        assert inherit().others == [sock.fileno()]


def test_listeners_are_inherited(inherit: Inherit, last: LastProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as two:
        last.listener(one)
        last.listener(two)
        found = inherit()
        addresses = [sock.getsockname() for sock in found.listeners.sockets]
        assert addresses == [one.getsockname(), two.getsockname()]
    assert found.names == {LISTENERS}


def test_clients_are_inherited_with_their_state(inherit: Inherit, last: LastProcess) -> None:
    one, _ = last.client()
    two, theirs = last.client("::1")
    two.unsent, two.saved = b"something", b"of its handler"
    last.clients([one, two], encode([two, one], FROZEN, COUNTS))
    found = inherit()
    assert found.frozen == FROZEN
    assert found.names == {CLIENTS}
    assert names(found.clients) == names([two, one])
    assert (found.clients[0].unsent, found.clients[0].saved) == (b"something", b"of its handler")
    assert all(client.counted for client in found.clients)
    two.sock.close()
    found.clients[0].sock.send(b"still the same")
    assert theirs.recv(64) == b"still the same"


def test_clients_that_are_turned_away_get_the_farewell(inherit: Inherit, last: LastProcess) -> None:
    one, theirs = last.client()
    two, gone = last.client()
    one.unsent = b"unsent"
    last.clients([one, two], encode([one, two], FROZEN, COUNTS))
    theirs.send(b"not read")
    gone.close()
    found = inherit()
    for client in (one, two):
        client.sock.close()
    found.turn_away(b"SHUTDOWN")
    assert theirs.recv(64) == b"unsentSHUTDOWN"
    assert theirs.recv(64) == b""


def test_client_that_reads_late_gets_all_sent_bytes(inherit: Inherit, last: LastProcess) -> None:
    one, theirs = last.client("unix")
    one.sock.setblocking(False)
    sent = 0
    with suppress(BlockingIOError):
        while True:
            sent += one.sock.send(bytes(1 << 16))
    one.unsent = bytes(1 << 20)
    theirs.send(bytes(1 << 16))
    last.clients([one], encode([one], FROZEN, COUNTS))
    found = inherit()
    one.sock.close()
    found.turn_away(b"SHUTDOWN")
    heard = 0
    while data := theirs.recv(1 << 16):
        heard += len(data)
    assert heard == sent


def test_state_without_its_socket_is_left_out(inherit: Inherit, last: LastProcess) -> None:
    one, _ = last.client()
    two, _ = last.client()
    last.clients([two], encode([one, two], FROZEN, COUNTS))
    assert names(inherit().clients) == names([two])


def test_socket_without_a_state_is_closed(inherit: Inherit, last: LastProcess) -> None:
    one, _ = last.client()
    two, theirs = last.client()
    last.clients([one, two], encode([one], FROZEN, COUNTS))
    found = inherit()
    assert names(found.clients) == names([one])
    two.sock.close()
    found.close()
    assert theirs.recv(1) == b""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "damage",
    [lambda _data: b"", lambda data: data[:-1], lambda data: b"graced clients 0\n" + data],
    ids=["empty", "cut off", "older"],
)
def test_unreadable_state_is_one_warning(
    inherit: Inherit, last: LastProcess, caplog: pytest.LogCaptureFixture, damage: Any, kind: str
) -> None:
    client, _ = last.client(kind)
    last.clients([client], damage(encode([client], FROZEN, COUNTS)))
    found = inherit()
    assert names(found.clients) == names([client])
    assert not found.clients[0].counted
    (record,) = caplog.records
    assert record.msg is events.NOT_INHERITED


def test_empty_bundle_means_a_crash(
    inherit: Inherit, last: LastProcess, caplog: pytest.LogCaptureFixture
) -> None:
    client, _ = last.client()
    last.mirrored([client])
    last.bundle(CLIENTS)
    found = inherit()
    assert names(found.clients) == names([client])
    assert not found.frozen
    assert caplog.records == []


@pytest.mark.parametrize("kind", KINDS)
def test_mirrored_client_is_inherited_after_a_crash(
    inherit: Inherit, last: LastProcess, kind: str
) -> None:
    client, theirs = last.client(kind)
    last.mirrored([client])
    theirs.send(b"not read")
    found = inherit()
    assert found.names == {MIRRORED}
    assert not found.frozen
    assert names(found.clients) == names([client])
    assert found.clients[0].counted
    assert found.clients[0].sock.recv(64) == b"not read"


def test_state_of_a_process_that_was_killed_as_it_began_is_old(
    inherit: Inherit, last: LastProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """Bytes that it has sent would be sent again."""
    client, _ = last.client()
    client.unsent = b"sent"
    last.clients([client], encode([client], FROZEN, COUNTS))
    store = [(os.dup(fd), name) for fd, name in last.passed]
    found = inherit()
    assert found.clients[0].unsent == b"sent"
    found.begin_to_serve()
    last.passed = store
    again = inherit()
    assert names(again.clients) == names([client])
    assert not again.clients[0].unsent
    assert not again.clients[0].counted, "it is told"
    assert [record.msg for record in caplog.records] == [events.NOT_INHERITED]


def test_mirror_knows_the_clients_of_such_a_process(inherit: Inherit, last: LastProcess) -> None:
    clients = [last.client()[0] for _ in range(3)]
    last.clients(clients[:2], encode(clients[:2], FROZEN, COUNTS))
    store = [(os.dup(fd), name) for fd, name in last.passed]
    inherit().begin_to_serve()
    last.passed = store
    last.mirrored(clients)
    found = inherit()
    assert names(found.clients) == names(clients)
    assert all(client.counted for client in found.clients)
    assert not found.frozen


def test_client_of_two_mirrors_is_one(inherit: Inherit, last: LastProcess) -> None:
    """A process was killed when the new bundle was stored, and the old one was still there."""
    clients = [last.client()[0] for _ in range(3)]
    last.mirrored(clients[:2])
    last.bundle(MIRRORED + "-7", [client.sock.fileno() for client in clients[1:]])
    assert names(inherit().clients) == names(clients)


@pytest.mark.parametrize("how", ["it closed", "it was reset", "we had closed"])
def test_departed_client_is_not_inherited(inherit: Inherit, last: LastProcess, how: str) -> None:
    gone, theirs = last.client()
    here, _ = last.client()
    last.mirrored([gone, here])
    if how == "it was reset":
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "we had closed":
        gone.sock.shutdown(socket.SHUT_RDWR)
    else:
        theirs.close()
    gone.sock.close()
    assert names(inherit().clients) == names([here])


def test_handover_is_preferred_to_the_mirror(inherit: Inherit, last: LastProcess) -> None:
    clients = [last.client()[0] for _ in range(3)]
    last.mirrored(clients)
    last.clients(clients[:2], encode(clients[:2], FROZEN, COUNTS))
    last.passed.reverse()
    found = inherit()
    assert names(found.clients) == names(clients[:2])
    assert found.names == {CLIENTS, MIRRORED}
    assert found.frozen == FROZEN


def test_counts_are_inherited(inherit: Inherit, last: LastProcess) -> None:
    client, _ = last.client()
    last.clients([client], encode([client], FROZEN, COUNTS))
    assert inherit().counts == COUNTS


def test_counts_after_a_crash_are_those_of_the_clients(inherit: Inherit, last: LastProcess) -> None:
    last.mirrored([last.client()[0], last.client()[0]])
    assert inherit().counts == (2, 0, 0, 0)


@pytest.mark.parametrize("finished", [False, True])
def test_clients_in_a_queue_are_turned_away_with_the_others(
    inherit: Inherit, last: LastProcess, finished: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        last.listener(server)
        with socket.create_connection(server.getsockname()) as queued:
            if finished:
                queued.shutdown(socket.SHUT_WR)
            inherit().turn_away(b"SHUTDOWN")
            assert queued.recv(64) == b"SHUTDOWN"
            assert queued.recv(64) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(server.getsockname())


def test_clients_of_a_retired_listener_are_not_counted(inherit: Inherit, last: LastProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        last.listener(server)
        with socket.create_connection(server.getsockname()) as queued:
            (client,) = inherit().retire_listeners()
            with client.sock:
                assert not client.counted
                assert not client.sock.getblocking()
                host, port = queued.getsockname()
                assert str(client) == f"{host}:{port}"


def test_descriptor_that_is_not_there_is_ignored() -> None:
    """LISTEN_FDS promises more than there is."""
    missing = os.open("/dev/null", os.O_RDONLY)
    os.close(missing)
    found = Inherited([(missing, LISTENERS), (missing, CLIENTS), (missing, UNKNOWN)])
    assert (found.clients, found.listeners.sockets) == ([], [])
