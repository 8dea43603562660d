"""Clients: echo, unsent bytes, closing, and the deadline.  No thread."""

from __future__ import annotations

import logging
from socket import socket
from typing import Any

import pytest

from graced.log import events
from graced.loop import clients as clients_module
from graced.loop.clients import BUFFER_SIZE, LOGGED_BYTES, SMALL_READ
from graced.loop.phase import ACTIVE, AWAITING_FIRST_BYTE, GONE, TRACED, WRITE_BLOCKED
from loop.scene import Handlers, LoopClient, MakeParts, Parts, fill
from support import FAREWELL


def reasons(caplog: pytest.LogCaptureFixture) -> list[Any]:
    fields: list[Any] = [record.args for record in caplog.records if record.msg is events.CLOSED]
    return [each["reason"] for each in fields]


def test_echo_sends_back_what_was_received(parts: Parts) -> None:
    client, peer = parts.connect()
    peer.send(b"hello")
    assert parts.clients.echo(client)
    assert peer.recv() == b"hello"
    assert (client.echoed, parts.clients.echoed) == (5, 5)


def test_echo_without_input_does_nothing(parts: Parts) -> None:
    client, _ = parts.connect()
    assert not parts.clients.echo(client)
    assert client.phase == ACTIVE


def test_echo_at_end_of_file_closes_the_client(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "graced")
    client, peer = parts.connect()
    peer.finish()
    assert not parts.clients.echo(client)
    peer.expect_end()
    assert client.phase == GONE
    assert parts.admission.clients == 0
    assert reasons(caplog) == ["closed by the client"]


def test_traced_message_is_logged_in_part(
    make_parts: MakeParts, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "graced")
    parts = make_parts()
    client, peer = parts.connect()
    assert client.phase == TRACED
    peer.send(b"x" * (LOGGED_BYTES + 1))
    assert parts.clients.echo(client)
    data = repr(b"x" * LOGGED_BYTES)
    assert caplog.messages == [f"received from unix:pair#1: {data}... ({LOGGED_BYTES + 1} bytes)"]


def test_unsent_bytes_wait_for_the_client(parts: Parts) -> None:
    client, peer = parts.connect()
    filled = fill(client)
    parts.clients.keep_unsent(client, memoryview(b"hello"))
    assert not parts.clients.flush(client)
    assert client.phase == WRITE_BLOCKED
    assert parts.ready() == []
    assert peer.recv_exactly(filled) == b"x" * filled
    assert parts.ready() == [client]
    assert parts.clients.flush(client)
    assert peer.recv() == b"hello"


def test_write_blocked_client_is_not_read(parts: Parts) -> None:
    client, peer = parts.connect()
    fill(client)
    parts.clients.keep_unsent(client, memoryview(b"hello"))
    peer.send(b"more")
    assert parts.ready() == []


def test_unsent_bytes_over_budget_make_reads_small(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients_module, "UNSENT_BUDGET", 10)
    (one, _), (two, _) = parts.connect(), parts.connect()
    assert len(parts.clients.view) == BUFFER_SIZE
    parts.clients.keep_unsent(one, memoryview(b"x" * 9))
    assert len(parts.clients.view) == BUFFER_SIZE
    parts.clients.keep_unsent(two, memoryview(b"x"))
    assert len(parts.clients.view) == SMALL_READ
    assert parts.clients.flush(one)
    assert len(parts.clients.view) == BUFFER_SIZE


def test_closed_client_does_not_count_for_the_budget(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients_module, "UNSENT_BUDGET", 10)
    client, _ = parts.connect()
    parts.clients.keep_unsent(client, memoryview(b"x" * 10))
    assert len(parts.clients.view) == SMALL_READ
    parts.clients.close(client, "test")
    assert len(parts.clients.view) == BUFFER_SIZE


def test_stalled_client_is_closed_after_timeout(
    make_parts: MakeParts, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "graced")
    parts = make_parts(stall_timeout=5.0)
    client, peer = parts.connect()
    filled = fill(client)
    parts.clients.keep_unsent(client, memoryview(b"hello"))
    assert parts.pass_time(4.9) == []
    assert parts.pass_time(0.2) == [client]
    parts.clients.close_stalled(client)
    assert peer.recv_to_end() == b"x" * filled
    assert reasons(caplog) == ["stalled"]


def test_progress_puts_the_stall_timeout_off(make_parts: MakeParts) -> None:
    parts = make_parts(stall_timeout=5.0)
    client, peer = parts.connect()
    fill(client)
    parts.clients.keep_unsent(client, memoryview(b"x" * BUFFER_SIZE))
    assert parts.pass_time(4.9) == []
    peer.recv()
    assert not parts.clients.flush(client)
    assert parts.pass_time(4.9) == []
    assert parts.pass_time(0.2) == [client]


def test_flushed_client_does_not_stall(make_parts: MakeParts) -> None:
    parts = make_parts(stall_timeout=5.0)
    client, _ = parts.connect()
    parts.clients.keep_unsent(client, memoryview(b"hello"))
    assert parts.clients.flush(client)
    assert parts.pass_time(5.1) == []


def test_lost_client_is_closed_with_its_error(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "graced")
    for error in (ConnectionResetError(), TimeoutError(110, "timed out"), BlockingIOError()):
        client, _ = parts.connect()
        parts.clients.lost(client, error)
    assert reasons(caplog) == ["reset by the client", "timed out"]
    assert parts.clients.present() == [client]


def test_activity_is_reported_once(parts: Parts) -> None:
    parts.clients.report_activity()
    assert parts.changes == 0
    parts.clients.report_next_activity()
    for _ in range(2):
        parts.clients.report_activity()
    assert parts.changes == 1


def test_last_client_to_depart_is_reported(parts: Parts) -> None:
    (one, _), (two, _) = parts.connect(), parts.connect()
    parts.clients.draining = True
    parts.clients.close(one, "test")
    assert parts.changes == 0
    parts.clients.close(two, "test")
    assert parts.changes == 1
    assert (parts.clients.departed, parts.clients.closed) == (2, 0)


def test_handler_owns_its_client(make_parts: MakeParts) -> None:
    handlers = Handlers()
    parts = make_parts(handlers=handlers)
    client, peer = parts.connect()
    assert client.phase == AWAITING_FIRST_BYTE
    peer.send(b"hello")
    parts.clients.start_handler(client, 0)
    assert handlers.taken.get_nowait() is client
    assert parts.ready() == []
    assert parts.clients.present() == []
    client.sock.close()


class Copies:
    """A mirror that has a copy of each descriptor, as the child of a handler may have."""

    def __init__(self) -> None:
        self.of: dict[LoopClient, socket] = {}

    def add(self, client: LoopClient) -> None:
        self.of[client] = client.sock.dup()

    def discard(self, client: LoopClient) -> None:
        assert client.sock.fileno() >= 0


def test_copied_descriptor_keeps_no_connection_open_and_makes_no_events(
    make_parts: MakeParts,
) -> None:
    copies = Copies()
    parts = make_parts(mirror=copies)
    client, peer = parts.connect()
    copies.add(client)
    parts.clients.close(client, "test")
    with copies.of[client]:
        peer.expect_end()
        assert parts.ready() == []


def test_deadline_sends_last_echo_and_farewell(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "graced")
    _, peer = parts.connect()
    peer.send(b"hello")
    parts.clients.close_at_deadline()
    assert peer.recv_to_end() == b"hello" + FAREWELL
    assert parts.clients.finished
    assert parts.clients.closed == 1
    assert reasons(caplog) == ["deadline"]


def test_deadline_sends_no_second_farewell(parts: Parts) -> None:
    _, peer = parts.connect()
    parts.poller.now += 1.0
    parts.farewell.drain()
    parts.clients.close_at_deadline()
    assert peer.recv_to_end() == FAREWELL


def test_deadline_sends_nothing_behind_unsent_bytes(parts: Parts) -> None:
    client, peer = parts.connect()
    filled = fill(client)
    parts.clients.keep_unsent(client, memoryview(b"hello"))
    parts.clients.close_at_deadline()
    assert peer.recv_to_end() == b"x" * filled


def test_deadline_waits_for_a_lingering_client(parts: Parts) -> None:
    (client, peer), (_, other_peer) = parts.connect(), parts.connect()
    parts.poller.unregister(client.sock.fileno())
    parts.acceptors.turn_away(client)
    parts.clients.close_at_deadline()
    assert other_peer.recv_to_end() == FAREWELL
    assert not parts.clients.finished
    peer.close()
    parts.clients.discard_input(client, 0)
    assert parts.clients.finished
    assert parts.clients.closed == 1
