"""One listening socket, and the end of it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from graced.sockets import listener
from graced.sockets.listener import HANDSHAKE_TIME, Listener, refuses_connections
from support import Client

Listen = Callable[[str], Listener]


@pytest.fixture(params=["127.0.0.1", "::1", "0.0.0.0", "::", "unix"])
def host(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Listen]:
    """A listener at a host with a port of its own, or at a path."""
    with ExitStack() as stack:

        def listen(host: str) -> Listener:
            name: str | tuple[str, int] = (host, 0)
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            if host == "unix":
                family, name = socket.AF_UNIX, str(tmp_path / "socket")
            sock = stack.enter_context(socket.socket(family))
            sock.bind(name)
            sock.listen(100)
            sock.setblocking(False)
            found = Listener(sock)
            stack.callback(found.close)
            return found

        yield listen


def connect(to: Listener) -> Client:
    name = to.name.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]")
    return Client.connect(name)


def test_accept_without_clients_does_not_wait(listen: Listen, host: str) -> None:
    with pytest.raises(BlockingIOError):
        listen(host).accept()


def test_queue_is_accepted_after_connections_are_refused(listen: Listen, host: str) -> None:
    found = listen(host)
    with connect(found) as one, connect(found) as two:
        timeout = found.refuse_connections()
        assert timeout == (0.0 if host == "unix" else HANDSHAKE_TIME)
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                connect(found)
        for client in (one, two):
            with found.accept()[0] as served:
                served.send(b"welcome")
                assert client.recv() == b"welcome"
                client.send(b"thanks")
                served.setblocking(True)
                assert served.recv(100) == b"thanks"
        with pytest.raises(OSError):  # noqa: PT011 (EAGAIN or EINVAL)
            found.accept()


def test_refusing_is_for_every_process_that_has_the_socket(listen: Listen, host: str) -> None:
    found = listen(host)
    with found.sock.dup() as copy:
        assert not refuses_connections(copy)
        found.refuse_connections()
        found.sock.close()
        assert refuses_connections(copy)
        with pytest.raises(ConnectionRefusedError):
            connect(found)


def test_last_connections_are_those_in_the_queue(listen: Listen, host: str) -> None:
    found = listen(host)
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(found)) for _ in range(5)]
        served = [stack.enter_context(sock) for sock in found.last_connections()]
        assert len(served) == len(clients)
        found.close()
        for sock, client in zip(served, clients, strict=True):
            sock.send(b"bye")
            assert client.recv() == b"bye"


def test_end_of_the_queue_is_found_at_the_first_look(
    listen: Listen, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Unix socket that refuses connections is readable with an empty queue."""
    found = listen(host)
    accept, looks = found._accept, []

    def counted() -> Any:
        looks.append(1)
        return accept()

    monkeypatch.setattr(found, "_accept", counted)
    with connect(found), connect(found):
        for sock in found.last_connections():
            sock.close()
    assert len(looks) == 3


def test_last_connections_wait_for_a_handshake(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel has answered a SYN when connections are refused; its client is accepted."""
    found = listen("127.0.0.1")
    monkeypatch.setattr(found, "refuse_connections", lambda: 10.0)
    connections = found.last_connections()
    with ExitStack() as stack:
        for _ in range(3):
            client = stack.enter_context(connect(found))
            with next(connections) as sock:
                sock.send(b"bye")
            assert client.recv() == b"bye"


def test_lost_client_does_not_end_the_queue(
    listen: Listen, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = listen(host)
    accept = found._accept
    lost = [ConnectionAbortedError(errno.ECONNABORTED, "gone")]

    def accept_after_a_loss() -> Any:
        if lost:
            raise lost.pop()
        return accept()

    monkeypatch.setattr(found, "_accept", accept_after_a_loss)
    with connect(found):
        (sock,) = found.last_connections()
        sock.close()


def test_queue_that_cannot_be_accepted_is_one_warning(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full() -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    found = listen("127.0.0.1")
    monkeypatch.setattr(found, "_accept", full)
    assert not list(found.last_connections())
    (message,) = caplog.messages
    assert message.endswith("the last may be reset: Too many open files")


def test_connections_that_cannot_be_refused_are_one_warning(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An older kernel does not know the option; the queue is accepted all the same."""
    monkeypatch.setattr(listener, "_SO_BINDTOIFINDEX", 0x7FFF)
    found = listen("127.0.0.1")
    with connect(found):
        (sock,) = found.last_connections()
        sock.close()
    (record,) = caplog.records
    assert record.getMessage() == (
        f"cannot refuse new connections to {found.name} before its end, the last may be reset:"
        " Protocol not available"
    )
    assert not refuses_connections(found.sock)


def test_path_is_removed_with_its_listener(listen: Listen, tmp_path: Path) -> None:
    listen("unix").close()
    assert not (tmp_path / "socket").exists()


def test_path_of_another_process_stays(listen: Listen, tmp_path: Path) -> None:
    found = listen("unix")
    (tmp_path / "socket").unlink()
    (tmp_path / "socket").write_text("of somebody else")
    found.close()
    assert (tmp_path / "socket").read_text() == "of somebody else"


def test_path_that_is_gone_does_no_harm(listen: Listen, tmp_path: Path) -> None:
    found = listen("unix")
    (tmp_path / "socket").unlink()
    found.close()


def test_disowned_path_stays(listen: Listen, tmp_path: Path) -> None:
    found = listen("unix")
    found.disown_path()
    found.close()
    assert (tmp_path / "socket").exists()


def test_inherited_path_stays_until_it_is_owned(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        Listener(sock.dup(), inherited=True).close()
        assert path.exists()
        found = Listener(sock.dup(), inherited=True)
        found.own_path()
        found.close()
        assert not path.exists()


def test_clients_are_reset_where_nobody_accepts_the_queue(listen: Listen) -> None:
    """The reason for all of this: if the kernel closed politely, it could go."""
    found = listen("127.0.0.1")
    with connect(found) as client:
        os.close(found.sock.detach())
        with pytest.raises(ConnectionResetError):
            client.recv()
