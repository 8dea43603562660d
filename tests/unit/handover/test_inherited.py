"""What the last process has left, with descriptors as the service manager passes them on."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from graced.handover.fd_bundle import FdBundle
from graced.handover.fdstore import CLIENTS, LISTENERS, MIRRORED
from graced.handover.inherited import Inherited
from graced.handover.snapshot import encode
from graced.log import events
from graced.loop.client import Client
from graced.loop.phase import GONE

FROZEN = 12.5
UNKNOWN = "graced-of-another-version"
KINDS = ["127.0.0.1", "::1", "unix"]


class Left:
    """What a process leaves, and who is on the other side of it."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._stack = stack
        self._path = str(directory / "socket")
        self.passed: list[tuple[int, str]] = []

    def listener(self, sock: socket.socket) -> None:
        self.passed.append((os.dup(sock.fileno()), LISTENERS))

    def client(self, kind: str = "127.0.0.1") -> tuple[Client, socket.socket]:
        """A client of the process, and its own end."""
        if kind == "unix":
            server = socket.socket(socket.AF_UNIX)
            server.bind(self._path)
            server.listen()
        else:
            family = socket.AF_INET6 if ":" in kind else socket.AF_INET
            server = socket.create_server((kind, 0), family=family)
        with server:
            theirs = self._stack.enter_context(socket.socket(server.family))
            theirs.connect(server.getsockname())
            ours = self._stack.enter_context(server.accept()[0])
        host, port = ("unix:" + self._path, 0) if kind == "unix" else theirs.getsockname()[:2]
        return Client(ours, host, port, GONE, 1.0), theirs

    def bundle(self, name: str, *messages: list[int]) -> None:
        bundle = FdBundle()
        for descriptors in messages:
            assert bundle.put(descriptors)
        self.passed.append((os.dup(bundle.receiver.fileno()), name))
        bundle.close()

    def clients(self, clients: list[Client], state: bytes) -> None:
        """As `FdStore.leave` does it."""
        fd = os.memfd_create("state")
        os.write(fd, state)
        self.bundle(CLIENTS, [fd], [client.sock.fileno() for client in clients])
        os.close(fd)

    def kept(self, clients: list[Client]) -> None:
        """As `Mirror` does it."""
        self.bundle(MIRRORED, *([client.sock.fileno()] for client in clients))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def left(stack: ExitStack, tmp_path: Path) -> Left:
    return Left(stack, tmp_path)


@pytest.fixture
def take_up(stack: ExitStack, left: Left) -> Callable[[], Inherited]:
    """What is found of it."""

    def take_up() -> Inherited:
        legacy = Inherited(left.passed)
        for sock in (*legacy.listeners, *(client.sock for client in legacy.clients)):
            stack.enter_context(sock)
            assert not sock.getblocking()
            assert not sock.get_inheritable()
        return legacy

    return take_up


TakeUp = Callable[[], Inherited]


def names(clients: list[Client]) -> list[str]:
    return [str(client) for client in clients]


def test_nothing(take_up: TakeUp) -> None:
    legacy = take_up()
    assert [*legacy.names, *legacy.others, *legacy.listeners, *legacy.clients] == []
    assert not legacy.frozen


def test_what_is_not_ours_is_left_alone(take_up: TakeUp, left: Left) -> None:
    # Not even looked at: the numbers are of nothing.
    left.passed += [(1000001, "graced.socket"), (1000002, ""), (1000003, "connection")]
    legacy = take_up()
    assert legacy.others == [1000001, 1000002, 1000003]
    assert not legacy.names


def test_what_is_neither_a_listener_nor_a_parcel_is_closed(take_up: TakeUp, left: Left) -> None:
    read, write = os.pipe()
    os.close(read)
    left.passed.append((write, UNKNOWN))
    legacy = take_up()
    assert not legacy.others
    assert legacy.names == {UNKNOWN}
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(write)


def test_listeners(take_up: TakeUp, left: Left) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as two:
        left.listener(one)
        left.listener(two)
        legacy = take_up()
        addresses = [sock.getsockname() for sock in legacy.listeners]
        assert addresses == [one.getsockname(), two.getsockname()]
    assert legacy.names == {LISTENERS}


def test_clients_with_their_state(take_up: TakeUp, left: Left) -> None:
    one, _ = left.client()
    two, theirs = left.client("::1")
    two.unsent, two.saved = b"something", b"of its handler"
    left.clients([one, two], encode([two, one], FROZEN))
    legacy = take_up()
    assert legacy.frozen == FROZEN
    assert legacy.names == {CLIENTS}
    assert names(legacy.clients) == names([two, one])
    assert (legacy.clients[0].unsent, legacy.clients[0].saved) == (b"something", b"of its handler")
    assert all(client.counted for client in legacy.clients)
    two.sock.close()
    legacy.clients[0].sock.send(b"still the same")
    assert theirs.recv(64) == b"still the same"


def test_where_nobody_will_serve_them_they_are_told(take_up: TakeUp, left: Left) -> None:
    one, theirs = left.client()
    two, gone = left.client()
    one.unsent = b"unsent"
    left.clients([one, two], encode([one, two], FROZEN))
    theirs.send(b"not read")
    gone.close()
    legacy = take_up()
    for client in (one, two):
        client.sock.close()
    legacy.turn_away(b"SHUTDOWN")
    assert theirs.recv(64) == b"unsentSHUTDOWN"
    assert theirs.recv(64) == b""


def test_who_takes_nothing_loses_nothing_of_what_it_was_sent_before(
    take_up: TakeUp, left: Left
) -> None:
    one, theirs = left.client("unix")
    one.sock.setblocking(False)
    sent = 0
    with suppress(BlockingIOError):
        while True:
            sent += one.sock.send(bytes(1 << 16))
    one.unsent = bytes(1 << 20)
    theirs.send(bytes(1 << 16))
    left.clients([one], encode([one], FROZEN))
    legacy = take_up()
    one.sock.close()
    legacy.turn_away(b"SHUTDOWN")
    heard = 0
    while data := theirs.recv(1 << 16):
        heard += len(data)
    assert heard == sent


def test_a_state_whose_socket_was_not_kept(take_up: TakeUp, left: Left) -> None:
    one, _ = left.client()
    two, _ = left.client()
    left.clients([two], encode([one, two], FROZEN))
    assert names(take_up().clients) == names([two])


def test_a_socket_without_a_state_is_closed(take_up: TakeUp, left: Left) -> None:
    one, _ = left.client()
    two, theirs = left.client()
    left.clients([one, two], encode([one], FROZEN))
    legacy = take_up()
    assert names(legacy.clients) == names([one])
    two.sock.close()
    assert theirs.recv(1) == b""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "damage",
    [lambda _data: b"", lambda data: data[:-1], lambda data: b"graced clients 0\n" + data],
    ids=["empty", "cut off", "older"],
)
def test_a_state_that_cannot_be_read_is_one_warning(
    take_up: TakeUp, left: Left, caplog: pytest.LogCaptureFixture, damage: Any, kind: str
) -> None:
    client, _ = left.client(kind)
    left.clients([client], damage(encode([client], FROZEN)))
    legacy = take_up()
    assert names(legacy.clients) == names([client])
    assert not legacy.clients[0].counted
    (record,) = caplog.records
    assert record.msg is events.NOT_INHERITED


def test_a_parcel_that_is_empty_is_what_a_crash_leaves(
    take_up: TakeUp, left: Left, caplog: pytest.LogCaptureFixture
) -> None:
    client, _ = left.client()
    left.kept([client])
    left.bundle(CLIENTS)
    legacy = take_up()
    assert names(legacy.clients) == names([client])
    assert not legacy.frozen
    assert caplog.records == []


@pytest.mark.parametrize("kind", KINDS)
def test_who_was_kept_when_the_process_crashed(take_up: TakeUp, left: Left, kind: str) -> None:
    client, theirs = left.client(kind)
    left.kept([client])
    theirs.send(b"not read")
    legacy = take_up()
    assert legacy.names == {MIRRORED}
    assert not legacy.frozen
    assert names(legacy.clients) == names([client])
    assert legacy.clients[0].counted
    assert legacy.clients[0].sock.recv(64) == b"not read"


@pytest.mark.parametrize("how", ["it closed", "it was reset", "we had closed"])
def test_who_has_gone_is_not_among_them(take_up: TakeUp, left: Left, how: str) -> None:
    gone, theirs = left.client()
    here, _ = left.client()
    left.kept([gone, here])
    if how == "it was reset":
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "we had closed":
        gone.sock.shutdown(socket.SHUT_RDWR)
    else:
        theirs.close()
    gone.sock.close()
    assert names(take_up().clients) == names([here])


def test_where_they_were_left_it_does_not_matter_who_was_kept(take_up: TakeUp, left: Left) -> None:
    clients = [left.client()[0] for _ in range(3)]
    left.kept(clients)
    left.clients(clients[:2], encode(clients[:2], FROZEN))
    left.passed.reverse()
    legacy = take_up()
    assert names(legacy.clients) == names(clients[:2])
    assert legacy.names == {CLIENTS, MIRRORED}
    assert legacy.frozen == FROZEN
