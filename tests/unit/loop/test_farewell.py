"""The farewell: when a client gets it, and when a client is read again.  No thread, except once."""

from __future__ import annotations

from select import EPOLLERR, EPOLLHUP, EPOLLIN
from socket import MSG_OOB
from typing import Any

import pytest

from graced.loop.farewell import MAX_REMIND_INTERVAL
from graced.loop.phase import (
    ACTIVE,
    ANSWERED,
    FAREWELL_PENDING,
    FAREWELL_SENT,
    GONE,
    NOT_TOLD,
    READ_PAUSED,
    TOLD,
    WRITE_BLOCKED,
)
from loop.scene import Handlers, LoopClient, Make, MakeParts, Parts, fill
from support import FAREWELL, Client

GAP = 0.5


@pytest.fixture
def parts(make_parts: MakeParts) -> Parts:
    return make_parts(gap=GAP)


def told(parts: Parts) -> tuple[LoopClient, Client]:
    """Return a client that has the farewell, and its peer."""
    client, peer = parts.connect()
    parts.poller.now += GAP
    parts.farewell.drain()
    peer.expect_farewell_alone()
    return client, peer


def test_quiet_client_gets_farewell_when_the_drain_begins(parts: Parts) -> None:
    client, _ = told(parts)
    assert (client.phase, client.told) == (FAREWELL_SENT, TOLD)
    assert parts.ready() == []


def test_busy_client_gets_farewell_after_the_gap(parts: Parts) -> None:
    client, peer = parts.connect()
    parts.farewell.drain()
    assert (client.phase, client.told) == (FAREWELL_PENDING, NOT_TOLD)
    assert parts.pass_time(GAP - 0.01) == []
    assert parts.pass_time(0.02) == [client]
    parts.farewell.send_pending(client)
    peer.expect_farewell_alone()
    assert client.phase == FAREWELL_SENT


def test_first_bytes_after_farewell_stay_unread_for_the_gap(parts: Parts) -> None:
    client, peer = told(parts)
    peer.send(b"hello")
    assert parts.ready() == [client]
    parts.farewell.pause_reading(client, EPOLLIN)
    assert client.phase == READ_PAUSED
    assert parts.ready() == []
    assert parts.pass_time(GAP - 0.01) == []
    assert parts.pass_time(0.02) == [client]
    parts.farewell.resume_reading(client)
    assert (client.phase, client.told) == (ACTIVE, ANSWERED)
    assert parts.ready() == [client]
    assert parts.clients.echo(client)
    assert peer.recv() == b"hello"


def test_client_that_leaves_after_farewell_is_closed(parts: Parts) -> None:
    client, peer = told(parts)
    peer.close()
    parts.farewell.pause_reading(client, EPOLLIN)
    assert client.phase == GONE
    assert parts.clients.departed == 1


@pytest.mark.parametrize("event", [EPOLLHUP, EPOLLERR])
def test_client_that_leaves_during_a_pause_is_closed(parts: Parts, event: int) -> None:
    client, peer = parts.connect()
    parts.farewell.drain()
    parts.farewell.leave_unread(client, event)
    assert client.phase == GONE
    peer.expect_end()


def test_bytes_during_a_pause_make_a_single_event(parts: Parts) -> None:
    client, peer = parts.connect()
    parts.farewell.drain()
    peer.send(b"hello")
    assert parts.ready() == [client]
    parts.farewell.leave_unread(client, EPOLLIN)
    assert parts.ready() == []


def test_unsent_bytes_come_before_the_farewell_with_a_gap(parts: Parts) -> None:
    client, peer = parts.connect()
    parts.clients.keep_unsent(client, memoryview(b"hello"))
    parts.farewell.drain()
    assert (client.phase, client.told) == (WRITE_BLOCKED, NOT_TOLD)
    assert parts.clients.flush(client)
    parts.farewell.go_on(client)
    assert peer.recv() == b"hello"
    assert client.phase == FAREWELL_PENDING
    assert parts.pass_time(GAP) == [client]
    parts.farewell.send_pending(client)
    peer.expect_farewell_alone()


def test_farewell_itself_may_be_unsent(parts: Parts) -> None:
    client, peer = parts.connect()
    filled = fill(client)
    parts.poller.now += GAP
    parts.farewell.drain()
    assert (client.phase, client.told) == (WRITE_BLOCKED, TOLD)
    peer.recv_exactly(filled)
    assert parts.clients.flush(client)
    parts.farewell.go_on(client)
    peer.expect_farewell_alone()
    assert client.phase == FAREWELL_SENT


def test_client_that_has_answered_is_served_as_before(parts: Parts) -> None:
    client, _ = told(parts)
    parts.farewell.resume_reading(client)
    parts.clients.keep_unsent(client, memoryview(b"hello"))
    assert parts.clients.flush(client)
    parts.farewell.go_on(client)
    assert client.phase == ACTIVE


def test_without_farewell_nothing_is_sent(make_parts: MakeParts) -> None:
    parts = make_parts(farewell=b"", gap=GAP)
    (one, _), (two, _) = parts.connect(), parts.connect()
    parts.clients.keep_unsent(two, memoryview(b"hello"))
    parts.poller.now += GAP
    parts.farewell.drain()
    assert parts.clients.flush(two)
    parts.farewell.go_on(two)
    assert [(client.phase, client.told) for client in (one, two)] == [(ACTIVE, NOT_TOLD)] * 2
    assert one.echoed == 0


def test_client_that_has_left_gets_no_farewell(parts: Parts) -> None:
    client, peer = parts.connect()
    peer.close()
    parts.poller.now += GAP
    parts.farewell.drain()
    assert client.phase == GONE


def test_handlers_are_reminded_again_and_again(make_parts: MakeParts) -> None:
    handlers = Handlers()
    parts = make_parts(handlers=handlers, gap=GAP)
    parts.farewell.drain()
    assert parts.pass_time(GAP - 0.01) == []
    (reminder,) = parts.pass_time(0.02)
    for number in (1, 2, 3):
        parts.farewell.remind(reminder)
        assert handlers.reminders == number
        assert parts.pass_time(MAX_REMIND_INTERVAL) == [reminder]


def test_out_of_band_data_after_farewell_wakes_nothing_up(parts: Parts) -> None:
    client, peer = told(parts)
    peer.sock.send(b"!", MSG_OOB)
    assert parts.ready() == [client]
    parts.farewell.pause_reading(client, EPOLLIN)
    assert client.phase == READ_PAUSED
    # epoll reports out-of-band data (EPOLLPRI) only where it is asked to.
    assert parts.ready() == []


def test_out_of_band_data_after_farewell_is_discarded(make: Make, tmp_path: Any) -> None:
    scene = make(f"unix:{tmp_path}/socket")
    with scene.connect() as client:
        client.echo(b"hello")
        scene.thread.drain()
        client.expect_farewell_alone()
        client.sock.send(b"!", MSG_OOB)
        client.echo(b"still here")


def test_new_client_during_the_drain_gets_farewell_and_end_of_file(make: Make) -> None:
    scene = make()
    with scene.connect() as present:
        present.echo(b"hello")
        scene.thread.drain()
        scene.changed()
        with scene.connect() as late:
            assert late.recv_to_end() == FAREWELL
