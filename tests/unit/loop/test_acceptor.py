"""Acceptors: accepting, pauses for want of capacity, refusals, and clients that linger."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from select import EPOLLIN, epoll
from typing import Any, cast

import pytest

from graced.loop import acceptor, clients
from graced.loop.phase import GONE, LINGERING
from graced.sockets import binding
from graced.sockets.address import Address
from graced.sockets.closing import LINGER_TIMEOUT
from graced.sockets.listener import Listener
from loop.scene import FailingListener, Handlers, Make, MakeParts, Parts
from support import FAREWELL, PATIENCE, Client


@pytest.fixture
def unix(tmp_path: Any) -> Iterator[Listener]:
    (unix,) = binding.bind([Address.parse(f"unix:{tmp_path}/socket")], 100)
    yield unix
    unix.close()


@pytest.fixture
def tcp() -> Iterator[Listener]:
    (tcp,) = binding.bind([Address.parse("127.0.0.1:0")], 100)
    yield tcp
    tcp.close()


@pytest.mark.parametrize("kind", ["127.0.0.1:0", "[::1]:0", "unix"])
def test_client_is_logged_by_address(
    make: Make, kind: str, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "graced")
    scene = make(f"unix:{tmp_path}/socket" if kind == "unix" else kind)
    with scene.connect() as client:
        client.echo(b"hello")
        name = f"unix:{tmp_path}/socket#1" if kind == "unix" else client.name
    assert f"connection from {name}" in [record.getMessage() for record in caplog.records]


def test_greeting_handler_takes_client_at_once(make: Make) -> None:
    handlers = Handlers(greet=True)
    scene = make(handlers=handlers)
    with scene.connect() as client:
        taken = handlers.taken.get(timeout=PATIENCE)
        assert taken.sock.getpeername() == client.sock.getsockname()
        taken.sock.close()


@pytest.mark.parametrize("code", sorted({errno.ECONNABORTED, errno.EPROTO, errno.EHOSTUNREACH}))
def test_client_lost_before_accept_is_ignored(make: Make, code: int) -> None:
    with make(accept_errors=[code, code]).connect() as client:
        client.echo(b"hello")


@pytest.mark.parametrize("code", sorted(acceptor.NO_CAPACITY))
def test_accepting_pauses_without_capacity(
    make: Make, code: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "ACCEPT_PAUSE", 0.01)
    caplog.set_level(logging.INFO, "graced")
    scene = make(accept_errors=[code, code, code])
    with scene.connect() as client:
        client.echo(b"hello")
    texts = [record.getMessage() for record in caplog.records if "accept" in record.getMessage()]
    assert texts == [
        f"cannot accept clients ({os.strerror(code)}), trying again every 0.01 s",
        "accepting clients again",
    ]


def test_accepting_pauses_when_every_client_is_lost(
    make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "ACCEPT_PAUSE", 0.01)
    caplog.set_level(logging.INFO, "graced")
    scene = make(accept_errors=[errno.EPERM] * (acceptor.MAX_LOSSES + 1))
    with scene.connect() as client:
        client.echo(b"hello")
    texts = [record.getMessage() for record in caplog.records if "accept" in record.getMessage()]
    assert texts == [
        f"cannot accept clients ({os.strerror(errno.EPERM)}), trying again every 0.01 s",
        "accepting clients again",
    ]


def test_accepted_client_ends_a_row_of_losses(unix: Listener) -> None:
    codes = [errno.EPERM] * (acceptor.MAX_LOSSES - 1)
    failing: Any = FailingListener(unix, codes)
    source = acceptor.Acceptor(failing)
    with Client.connect(unix.name):
        ((sock, _),) = source.arrivals(acceptor.MAX_LOSSES)
        sock.close()
    assert source.losses == 0


def test_unexpected_error_of_accept_ends_the_thread(make: Make) -> None:
    scene = make(accept_errors=[errno.EBADF])
    with scene.connect():
        scene.changed()
    assert isinstance(scene.thread.failure, OSError)


def test_number_of_lingering_refused_clients_is_bounded(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "MAX_LINGERING", 2)
    scene = make(limit=0)
    clients = [scene.connect() for _ in range(5)]
    heard = [client.recv_to_end() for client in clients]
    assert heard == [FAREWELL, FAREWELL, b"", b"", b""]
    for client in clients:
        client.close()


def test_refused_client_that_does_not_close_is_closed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "LINGER_TIMEOUT", 0.05)
    scene = make(limit=0)
    with scene.connect() as client:
        assert client.recv_to_end() == FAREWELL
        with pytest.raises(ConnectionError):
            client.send(b"still here" * 10_000_000)


def test_refused_clients_are_reported_together(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    clients = [parts.connect()[0] for _ in range(3)]
    for client in clients:
        parts.acceptors.count_refusal(client, "test")
    (report,) = parts.pass_time(acceptor.REPORT_INTERVAL)
    parts.acceptors.report_refusals(report)
    assert caplog.messages == [
        "refused 1 client, the last from unix:pair#1: test",
        "refused 2 clients, the last from unix:pair#3: test",
    ]
    (report,) = parts.pass_time(acceptor.REPORT_INTERVAL)
    parts.acceptors.report_refusals(report)
    assert parts.pass_time(1e6) == []


def test_lingering_client_is_closed_when_the_peer_closes(parts: Parts) -> None:
    client, peer = parts.connect()
    parts.poller.unregister(client.sock.fileno())
    parts.acceptors.turn_away(client)
    assert (client.phase, parts.clients.lingering) == (LINGERING, 1)
    assert peer.recv_to_end() == FAREWELL
    peer.send(b"too late")
    parts.clients.discard_input(client, 0)
    assert client.phase == LINGERING
    peer.close()
    parts.clients.discard_input(client, 0)
    assert (client.phase, parts.clients.lingering) == (GONE, 0)


def test_lingering_client_is_closed_after_timeout(parts: Parts) -> None:
    client, _ = parts.connect()
    parts.poller.unregister(client.sock.fileno())
    parts.acceptors.turn_away(client)
    assert parts.pass_time(LINGER_TIMEOUT) == [client]
    parts.clients.end_lingering(client)
    assert (client.phase, parts.clients.lingering) == (GONE, 0)


class FullEpoll:
    """An epoll set without room for one more descriptor."""

    def __init__(self, real: epoll) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def register(self, _fd: int, _interest: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_shut_unix_listener_accepts_no_new_client_and_makes_no_events(
    make_parts: MakeParts, unix: Listener
) -> None:
    parts = make_parts(listeners=[unix])
    parts.acceptors.refuse_connections()
    parts.acceptors.accept_last()
    with pytest.raises(ConnectionRefusedError):
        Client.connect(unix.name)
    assert parts.ready() == []


def test_drain_leaves_the_backlog_of_a_passed_listener(
    make_parts: MakeParts, unix: Listener
) -> None:
    unix.passed = True
    parts = make_parts(listeners=[unix])
    with Client.connect(unix.name):
        parts.acceptors.count_backlog()
        parts.acceptors.accept_backlog()
        assert parts.admission.admitted == 0
        assert parts.ready() == []


def test_client_that_does_not_fit_into_the_epoll_set_pauses_accepting(
    make_parts: MakeParts, unix: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = make_parts(listeners=[unix])
    with Client.connect(unix.name) as client:
        (source,) = parts.ready()
        with monkeypatch.context() as patch:
            patch.setattr(parts.poller, "epoll", FullEpoll(parts.poller.epoll))
            parts.acceptors.accept(source, EPOLLIN)
            client.expect_end()
            assert source.paused
            assert parts.pass_time(acceptor.ACCEPT_PAUSE) == [source]
            parts.acceptors.retry(source)
            assert source.paused
        assert parts.pass_time(acceptor.ACCEPT_PAUSE) == [source]
        parts.acceptors.retry(source)
        assert not source.paused


def test_paused_acceptor_can_be_abandoned(make_parts: MakeParts, unix: Listener) -> None:
    parts = make_parts(listeners=[unix])
    with Client.connect(unix.name):
        (source,) = parts.ready()
        parts.poller.unregister(unix.sock.fileno())
        source.paused = True
        parts.poller.schedule_after(source, acceptor.ACCEPT_PAUSE)
        parts.acceptors.abandon_all()
        assert parts.pass_time(acceptor.ACCEPT_PAUSE) == []


@pytest.mark.parametrize("address", ["127.0.0.1:0", "unix"])
def test_queued_client_is_accepted_at_the_end(make: Make, tmp_path: Any, address: str) -> None:
    scene = make(f"unix:{tmp_path}/socket" if address == "unix" else address)
    queued = []

    def connect_and_finish() -> None:
        queued.append(scene.connect())
        scene.thread.finish()

    scene.do(connect_and_finish)
    (client,) = queued
    with client:
        assert client.recv_to_end() == FAREWELL
    scene.thread.join(PATIENCE)
    assert scene.thread.failure is None


def test_queued_client_is_accepted_when_others_have_made_room(make: Make) -> None:
    scene = make(accept_errors=[errno.EMFILE])
    queued = []

    def connect_and_finish() -> None:
        queued.append(scene.connect())
        scene.thread.drain()
        scene.thread.finish()

    scene.do(connect_and_finish)
    with queued[0] as client:
        assert client.recv_to_end() == FAREWELL
    scene.thread.join(PATIENCE)
    assert scene.thread.failure is None


def test_client_whose_handshake_ends_after_the_deadline_is_accepted(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listener stays open here, as if the kernel had answered the SYN before."""
    scene = make()
    monkeypatch.setattr(scene.listener, "refuse_connections", lambda: 0.001)
    late = []

    def finish_and_connect() -> None:
        scene.thread.finish()
        scene.thread.post(lambda: late.append(scene.connect()))

    scene.do(finish_and_connect)
    scene.thread.join(PATIENCE)
    with late[0] as client:
        assert client.recv_to_end() == FAREWELL
    assert scene.thread.failure is None


def test_client_whose_handshake_ends_late_is_accepted_by_a_paused_acceptor(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A paused acceptor is not in the epoll set, and its next try would come too late."""
    scene = make()
    monkeypatch.setattr(scene.listener, "refuse_connections", lambda: 0.001)
    late: list[Client] = []

    def pause_and_finish() -> None:
        acceptors = scene.thread._acceptors
        acceptors._pause(acceptors._acceptors[0], "no descriptor is free")
        scene.thread.finish()
        scene.thread.post(lambda: late.extend(scene.connect() for _ in range(5)))

    scene.do(pause_and_finish)
    scene.thread.join(PATIENCE)
    for client in late:
        with client:
            assert client.recv_to_end() == FAREWELL
    assert scene.thread.failure is None


class FloodedListener:
    """A listener in whose queue a new connection is for each that is accepted."""

    def __init__(self, good: Listener) -> None:
        self.good = good
        self.accepted = 0
        self.flood = [Client.connect(good.name)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.good, name)

    def accept(self) -> Any:
        self.accepted += 1
        assert self.accepted < 100, "the loop ends when the network wants"
        self.flood.append(Client.connect(self.good.name))
        return self.good.accept()

    def close(self) -> None:
        for client in self.flood:
            client.close()


def test_drain_accepts_no_more_than_was_queued(make_parts: MakeParts, tcp: Listener) -> None:
    flooded = FloodedListener(tcp)
    parts = make_parts(listeners=[cast("Listener", flooded)])
    with closing(flooded):
        parts.acceptors.count_backlog()
        parts.acceptors.accept_backlog()
        assert flooded.accepted == parts.admission.admitted == 1


def test_end_accepts_no_more_than_was_queued(
    make_parts: MakeParts, tcp: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the kernel does not let the listener refuse connections."""
    monkeypatch.setattr(tcp, "refuse_connections", lambda: 0.0)
    flooded = FloodedListener(tcp)
    parts = make_parts(listeners=[cast("Listener", flooded)])
    with closing(flooded):
        parts.acceptors.refuse_connections()
        parts.acceptors.accept_last()
        assert flooded.accepted == 1


def test_ipv4_client_of_a_dual_stack_listener_has_one_notation(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log and for the limit by host, as if it had come over the IPv4 listener."""
    caplog.set_level(logging.INFO)
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as sock:
        sock.setblocking(False)
        scene = make(listener=Listener(sock.dup()), per_host=1)
        with Client.connect(f"127.0.0.1:{sock.getsockname()[1]}") as client:
            client.echo(b"hello")
            assert scene.admission.enter("127.0.0.1") == "max_clients_per_host = 1 reached"
            assert "connection from 127.0.0.1:" in caplog.text
            assert "ffff" not in caplog.text
