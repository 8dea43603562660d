"""Snapshots: the state of clients as bytes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.handover.snapshot import (
    _COUNT,
    _COUNTS,
    _HEADER,
    _NAME,
    SnapshotError,
    cookie,
    decode,
    encode,
)
from graced.loop.client import Client, behind_proxy
from graced.loop.phase import GONE, NOT_TOLD
from graced.sockets.address import plain_host

NUMBERS = st.integers(0, 2**64 - 1)
TIMES = st.floats(0, allow_infinity=False)
HOSTS = st.one_of(
    # Python 3.13 writes ::ffff:192.0.2.7 of it, and no client of ours has this notation.
    st.ip_addresses().map(lambda address: plain_host(str(address))),
    # A path is bytes, and bytes that are no UTF-8 have to survive as well.
    st.binary(max_size=107).map(lambda path: "unix:/" + os.fsdecode(path)),
)


class Known(NamedTuple):
    """The state of a client."""

    host: str
    port: int
    since: float
    last: float
    echoed: int
    unsent: bytes
    saved: bytes | None
    header: int = 0


KNOWN = st.builds(
    Known,
    HOSTS,
    NUMBERS,
    TIMES,
    TIMES,
    NUMBERS,
    st.binary(max_size=300),
    st.none() | st.binary(max_size=300),
    st.integers(0, 4096),
)
SOMEBODY = Known("192.0.2.1", 50000, 1.0, 2.0, 3, b"unsent", None)
NOTHING_UNSENT = SOMEBODY._replace(unsent=b"")
COUNTS = (70, 700, 7, 3)


class Crowd:
    """Clients with real sockets, as a context manager."""

    def __init__(self, *known: Known, family: int = socket.AF_UNIX) -> None:
        self._ends = ExitStack()
        self.clients = [self._client(each, family) for each in known]
        self.sockets = [client.sock for client in self.clients]

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_error: Any) -> None:
        self._ends.close()

    def _client(self, known: Known, family: int) -> Client:
        sock = self._connected(family)
        client = Client(sock, known.host, known.port, GONE, known.since)
        client.last, client.echoed = known.last, known.echoed
        client.unsent, client.saved = known.unsent, known.saved
        return behind_proxy(client, known.header)

    def _connected(self, family: int) -> socket.socket:
        if family == socket.AF_UNIX:
            ours, theirs = socket.socketpair()
        else:
            host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
            with socket.create_server((host, 0), family=socket.AddressFamily(family)) as server:
                theirs = socket.create_connection(server.getsockname()[:2])
                ours, _ = server.accept()
        self._ends.enter_context(theirs)
        return self._ends.enter_context(ours)


def known(clients: list[Client]) -> list[Known]:
    return [
        Known(c.host, c.port, c.since, c.last, c.echoed, c.unsent, c.saved, c.header)
        for c in clients
    ]


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    """Three clients, the last of them without unsent bytes."""
    other = SOMEBODY._replace(port=50001, unsent=b"x" * 99, saved=b"state")
    with Crowd(SOMEBODY, other, NOTHING_UNSENT) as crowd:
        yield crowd


@given(
    everybody=st.lists(KNOWN, max_size=5),
    frozen=TIMES,
    counts=st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS),
    tallies=st.dictionaries(st.text(max_size=20), NUMBERS, max_size=5),
    family=st.sampled_from([socket.AF_UNIX, socket.AF_INET, socket.AF_INET6]),
    random=st.integers().map(Random),
)
def test_state_comes_back(
    everybody: list[Known],
    frozen: float,
    counts: tuple[int, int, int, int],
    tallies: dict[str, int],
    family: int,
    random: Random,
) -> None:
    with Crowd(*everybody, family=family) as crowd:
        data = encode(crowd.clients, frozen, counts, tallies=tallies)
        # The service manager passes them on in an order of its own.
        shuffled = list(crowd.sockets)
        random.shuffle(shuffled)
        found = decode(data, shuffled, GONE)
        assert found.frozen == frozen
        assert (found.counts, found.tallies) == (counts, tallies)
        assert known(found.clients) == everybody
        assert [client.sock for client in found.clients] == crowd.sockets


def test_client_comes_back_admitted_and_not_told(crowd: Crowd) -> None:
    found = decode(encode(crowd.clients, 1.0, COUNTS), crowd.sockets, GONE).clients
    for client in found:
        assert client.counted
        assert client.told == NOT_TOLD
        assert client.phase == GONE
        assert (client.due, client.timer) == (0.0, 0.0)


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6])
def test_socket_is_known_by_its_cookie(family: int) -> None:
    with Crowd(SOMEBODY, SOMEBODY._replace(port=1), family=family) as crowd:
        one, two = crowd.sockets
        with one.dup() as copy:
            assert cookie(copy) == cookie(one) != cookie(two)
            (found,) = decode(encode(crowd.clients, 1.0, COUNTS), [copy], GONE).clients
            assert found.sock is copy
            assert found.port == SOMEBODY.port


def test_state_without_its_socket_is_left_out(crowd: Crowd) -> None:
    data = encode(crowd.clients, 1.0, COUNTS)
    found = decode(data, crowd.sockets[1:], GONE).clients
    assert [client.sock for client in found] == crowd.sockets[1:]
    assert decode(data, [], GONE).clients == []


def test_socket_without_a_state_is_left_out(crowd: Crowd) -> None:
    data = encode(crowd.clients[:1], 1.0, COUNTS)
    found = decode(data, crowd.sockets, GONE).clients
    assert [client.sock for client in found] == crowd.sockets[:1]


@pytest.mark.parametrize(
    "last",
    [
        SOMEBODY,
        NOTHING_UNSENT,
        NOTHING_UNSENT._replace(saved=b""),
        SOMEBODY._replace(saved=b"state"),
    ],
    ids=["unsent", "nothing", "nothing saved", "unsent and saved"],
)
def test_snapshot_that_is_cut_off_is_refused(last: Known) -> None:
    with Crowd(SOMEBODY, last) as crowd:
        data = encode(crowd.clients, 1.0, COUNTS)
        without_tallies = len(data) - _NAME.size
        without_headers = without_tallies - 2 * _HEADER.size
        without_refused = without_headers - _COUNT.size
        without_probes = without_refused - _COUNT.size
        without_name = without_probes - _NAME.size
        without_counts = without_name - _COUNTS.size
        whole = {without_tallies, without_headers, without_refused, without_probes, without_name}
        for length in set(range(len(data))) - whole - {without_counts}:
            with pytest.raises(SnapshotError):
                decode(data[:length], crowd.sockets, GONE)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: data.replace(b"clients 1\n", b"clients 2\n", 1),
        lambda data: data.replace(b"clients 1\n", b"clients 10\n", 1),
        lambda data: b"\0" + data,
    ],
    ids=["nothing", "newer", "ten", "shifted"],
)
def test_other_version_is_refused(crowd: Crowd, change: Any) -> None:
    with pytest.raises(SnapshotError):
        decode(change(encode(crowd.clients, 1.0, COUNTS)), crowd.sockets, GONE)


@given(st.binary(max_size=200), st.integers(0, 200))
def test_damaged_snapshot_is_refused_or_read(damage: bytes, at: int) -> None:
    with Crowd(SOMEBODY, NOTHING_UNSENT) as crowd:
        data = encode(crowd.clients, 1.0, COUNTS)
        try:
            found = decode(data[:at] + damage + data[at + len(damage) :], crowd.sockets, GONE)
        except SnapshotError:
            return
        assert {client.sock for client in found.clients} <= set(crowd.sockets)


def test_snapshot_of_release_0_1_has_the_counts_of_its_clients(crowd: Crowd) -> None:
    """It ends after the clients."""
    rest = _COUNTS.size + 2 * _NAME.size + 2 * _COUNT.size + 3 * _HEADER.size
    data = encode(crowd.clients, 1.0, COUNTS)[:-rest]
    found = decode(data, crowd.sockets, GONE)
    assert found.counts == (3, 3 * SOMEBODY.echoed, 0, 0)
    assert known(found.clients) == known(crowd.clients)


def test_client_of_release_0_1_has_the_one_notation(crowd: Crowd) -> None:
    crowd.clients[0].host = "::ffff:192.0.2.7"
    found = decode(encode(crowd.clients[:1], 0.0, (1, 0, 0, 0)), crowd.sockets, GONE)
    assert [client.host for client in found.clients] == ["192.0.2.7"]


def test_tallies_that_are_cut_off_are_refused(crowd: Crowd) -> None:
    tallies = {"log dropped": 7, "refused max_clients": 8}
    data = encode(crowd.clients, 1.0, COUNTS, tallies=tallies)
    assert decode(data, crowd.sockets, GONE).tallies == tallies
    with pytest.raises(SnapshotError):
        decode(data[:-1], crowd.sockets, GONE)


def test_bytes_of_a_later_release_are_ignored(crowd: Crowd) -> None:
    data = encode(crowd.clients, 1.0, COUNTS, "shout:Shout") + b"of a later release"
    found = decode(data, crowd.sockets, GONE)
    assert found.counts == COUNTS
    assert found.handler == "shout:Shout"
    assert known(found.clients) == known(crowd.clients)
