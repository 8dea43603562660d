"""Clients that wait for a thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from select import EPOLLIN
from socket import create_connection, create_server

import pytest

from graced.loop import waiting
from graced.loop.phase import AWAITING_FIRST_BYTE, AWAITING_THREAD, FAREWELL_SENT, GONE, LINGERING
from loop.scene import Handlers, LoopClient, MakeParts, Parts
from support import FAREWELL, Client

KINDS = pytest.mark.parametrize("kind", ["tcp", "unix"])
Place = tuple[Parts, Handlers, ExitStack]


@pytest.fixture
def place(make_parts: MakeParts) -> Iterator[Place]:
    """Parts of an I/O thread without a free thread for handlers."""
    handlers = Handlers()
    handlers.free = 0
    with ExitStack() as stack:
        yield make_parts(handlers=handlers, limit=5, gap=0.0), handlers, stack


def come(place: Place, kind: str = "unix", words: bytes = b"hello") -> tuple[LoopClient, Client]:
    """A client that has to wait."""
    parts = place[0]
    client, peer = connect(place, kind)
    if words:
        peer.send(words)
    parts.clients.start_handler(client, EPOLLIN)
    assert client.phase == AWAITING_THREAD
    return client, peer


def connect(place: Place, kind: str) -> tuple[LoopClient, Client]:
    """A client that has said nothing."""
    parts, _, stack = place
    if kind == "unix":
        client, peer = parts.connect()
    else:
        with create_server(("127.0.0.1", 0)) as server:
            peer = Client(create_connection(server.getsockname()))
            ours, _ = server.accept()
        ours.setblocking(False)
        client = LoopClient(ours, "127.0.0.1", 1, AWAITING_FIRST_BYTE, parts.poller.now)
        assert not parts.admission.enter(client.host)
        parts.poller.register(ours.fileno(), client, EPOLLIN)
        stack.enter_context(peer)
        stack.enter_context(ours)
    return client, peer


def hear(place: Place) -> None:
    parts, _, _ = place
    for fd, event in parts.poller.epoll.poll(1):
        client = parts.poller.sources[fd]
        assert isinstance(client, LoopClient)
        parts.waiting.hear(client, event)


@KINDS
def test_clients_get_threads_in_order(place: Place, kind: str) -> None:
    parts, handlers, _ = place
    clients = [come(place, kind)[0] for _ in range(3)]
    assert parts.waiting.number == 3
    assert parts.ready() == [], "they have sent bytes, and are not read"
    handlers.free = 2
    parts.waiting.start()
    assert [handlers.taken.get(), handlers.taken.get()] == clients[:2]
    assert parts.waiting.number == 1
    assert [client.phase for client in clients] == [GONE, GONE, AWAITING_THREAD]
    handlers.free = 1
    parts.waiting.start()
    assert handlers.taken.get() is clients[2]
    assert parts.admission.clients == 3


@KINDS
def test_client_does_not_overtake_those_that_wait(place: Place, kind: str) -> None:
    """A thread is free, and the I/O thread has not heard of it yet."""
    parts, handlers, _ = place
    first, _ = come(place, kind)
    handlers.free = 1
    second, _ = come(place, kind)
    assert handlers.taken.get() is first
    handlers.free = 1
    parts.waiting.start_if_free(connect(place, kind)[0])
    assert parts.waiting.number == 1
    parts.waiting.start()
    assert handlers.taken.get() is second


@KINDS
@pytest.mark.parametrize("words", [b"", b"hello"], ids=["silent", "spoken"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_client_that_departs_takes_no_place(
    place: Place, kind: str, words: bytes, how: str
) -> None:
    parts, handlers, _ = place
    client, peer = come(place, kind, words)
    getattr(peer, how)()
    hear(place)
    assert parts.admission.clients == 0
    if client.phase == AWAITING_THREAD:
        assert (kind, words, how) == ("tcp", b"hello", "close"), "may be a request with its end"
        assert parts.ready() == [], "heard once"
        parts.clients.close(client, "deadline")
    assert parts.waiting.number == 0
    assert parts.admission.clients == 0
    assert handlers.taken.empty()


@KINDS
def test_client_that_has_sent_its_last_byte_is_answered(place: Place, kind: str) -> None:
    parts, handlers, _ = place
    client, peer = come(place, kind)
    peer.finish()
    hear(place)
    assert client.phase == AWAITING_THREAD
    handlers.free = 1
    parts.waiting.start()
    assert handlers.taken.get() is client
    assert not client.counted
    assert parts.admission.clients == 0


def test_not_too_many_wait_without_being_counted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "MAX_UNCOUNTED", 2)
    for _ in range(4):
        come(place, "tcp")[1].finish()
        hear(place)
    parts, handlers, _ = place
    assert (parts.waiting.number, parts.admission.clients) == (0, 0)
    handlers.free = 10
    parts.waiting.start()
    assert handlers.taken.qsize() == 2


@KINDS
def test_drain_counts_and_tells(place: Place, kind: str) -> None:
    """A declared farewell: no answer is under way."""
    parts, _, _ = place
    client, peer = come(place, kind)
    peer.finish()
    hear(place)
    assert not client.counted
    parts.farewell.drain()
    assert client.counted
    assert parts.admission.clients == 1
    assert client.phase == FAREWELL_SENT
    assert peer.recv() == FAREWELL
    assert parts.ready() == [client]


@pytest.mark.parametrize("words", [b"", b"hello"], ids=["silent", "spoken"])
def test_drain_without_a_farewell(make_parts: MakeParts, words: bytes) -> None:
    """A silent client hears end of file; a request is answered first."""
    handlers = Handlers(greet=True)
    handlers.free = 0
    with ExitStack() as stack:
        place = make_parts(handlers=handlers, farewell=None), handlers, stack
        client, peer = come(place, words=words)
        place[0].farewell.drain()
        if words:
            assert client.phase == AWAITING_THREAD
            peer.finish()
            hear(place)
            assert client.counted, "the drain waits for it"
            handlers.free = 1
            place[0].waiting.start()
            assert handlers.taken.get() is client
        else:
            assert client.phase == LINGERING
            peer.expect_end()
            peer.close()
            assert place[0].ready() == [client]


def test_waiting_client_is_transferred(place: Place) -> None:
    parts, _, _ = place
    first, peer = come(place, "tcp")
    second, _ = come(place)
    peer.finish()
    hear(place)
    assert parts.transfer.freeze() == [first, second] or parts.admission.clients == 0
    assert parts.admission.clients == 0
    assert parts.waiting.number == 0
    assert first.counted
    first.sock.close()


def test_waiting_client_is_not_idle(make_parts: MakeParts) -> None:
    handlers = Handlers()
    handlers.free = 0
    with ExitStack() as stack:
        place = make_parts(handlers=handlers, idle_timeout=1.0), handlers, stack
        client, _ = come(place)
        place[0].poller.now += 100.0
        place[0].idle.close_idle(place[0].idle)
        assert client.phase == AWAITING_THREAD


@KINDS
def test_thread_that_cannot_be_started_is_tried_again(place: Place, kind: str) -> None:
    """The client is watched meanwhile, and keeps its place in the queue."""
    parts, handlers, stack = place
    handlers.free, handlers.refused = 2, 2
    client, peer = come(place, kind)
    assert parts.waiting.number == 1
    assert parts.ready() == [], "the client has sent bytes, and is not read"
    assert parts.poller.timers.next == parts.poller.now + waiting.RETRY_INTERVAL
    parts.waiting.retry(client)
    assert client.phase == AWAITING_THREAD
    handlers.free = 1
    parts.waiting.retry(client)
    assert handlers.taken.get() is client
    assert parts.waiting.number == 0
    assert parts.admission.clients == 1
    stack.enter_context(peer)


def test_client_that_hangs_up_before_a_thread_can_be_started(place: Place) -> None:
    parts, handlers, _ = place
    handlers.free, handlers.refused = 1, 1
    _, peer = come(place)
    peer.close()
    hear(place)
    assert parts.waiting.number == parts.admission.clients == 0
