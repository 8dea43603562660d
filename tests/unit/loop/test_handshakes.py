"""Handshakes of TLS in an I/O thread: their time, and a connection that ends under one."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from threading import Event

import pytest

from graced.loop import handshakes
from graced.loop.handshaker import Handshaker
from graced.sockets import binding
from graced.sockets.address import Address
from graced.sockets.tls import TlsSocket, server_context
from loop.scene import Make, Scene
from support import PATIENCE, Client
from support.tls import CERTIFICATE, LISTEN, TlsClient, place


@pytest.fixture
def handshaker() -> Iterator[Handshaker]:
    found = Handshaker(server_context(str(CERTIFICATE), str(CERTIFICATE)), str(CERTIFICATE))
    found.start()
    yield found
    found.finish()
    found.join(PATIENCE)
    assert not found.is_alive()


def serve(make: Make, handshaker: Handshaker) -> Scene:
    (listener,) = binding.bind([Address.parse(LISTEN)], 100)
    return make(listener=listener, handshaker=handshaker)


def connect(scene: Scene) -> Client:
    return Client(socket.create_connection(place(scene.listener.name)))


def test_client_is_served_after_its_handshake(make: Make, handshaker: Handshaker) -> None:
    scene = serve(make, handshaker)
    with TlsClient(scene.listener.name) as client:
        client.echo(b"hello")


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01"], ids=["silent", "half"])
def test_handshake_has_its_time(
    make: Make, handshaker: Handshaker, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    # Longer than a slow processor needs to send: bytes that come after the end are answered by RST.
    monkeypatch.setattr(handshakes, "HANDSHAKE_TIMEOUT", 1.0)
    scene = serve(make, handshaker)
    with connect(scene) as client:
        client.send(data)
        assert client.recv_to_end() == b""
    scene.wait_until(lambda: not scene.admission.clients)


def test_descriptor_stays_open_under_a_step(
    make: Make, handshaker: Handshaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another client would get it, and the rest of the handshake."""
    under_way, go_on = Event(), Event()

    def slow(sock: TlsSocket) -> None:
        assert socket.socket.recv(sock, 1)
        under_way.set()
        assert go_on.wait(PATIENCE)
        raise ssl.SSLWantReadError

    monkeypatch.setattr(TlsSocket, "do_handshake", slow)
    scene = serve(make, handshaker)
    with connect(scene) as client:
        client.send(b"\x16")
        assert under_way.wait(PATIENCE)
        (ours,) = scene.do(scene.thread.clients.present)
        scene.do(lambda: scene.thread.clients.close(ours, "by the test"))
        assert ours.sock.fileno() >= 0
        assert not scene.admission.clients
        go_on.set()
        assert client.recv_to_end() == b""
        assert ours.sock.fileno() < 0


def test_new_epoll_set_does_not_step_twice(
    make: Make, handshaker: Handshaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at a restart, where clients without TLS move."""
    under_way, go_on = Event(), Event()
    steps = []
    shake = TlsSocket.do_handshake

    def slow(sock: TlsSocket) -> None:
        steps.append(sock)
        under_way.set()
        assert go_on.wait(PATIENCE)
        shake(sock)

    monkeypatch.setattr(TlsSocket, "do_handshake", slow)
    scene = serve(make, handshaker)
    with TlsClient(scene.listener.name, shake=False) as client:
        client.sock.settimeout(0)
        with pytest.raises(ssl.SSLWantReadError):
            client.shake()
        assert under_way.wait(PATIENCE)
        (ours,) = scene.do(scene.thread.clients.present)
        scene.do(lambda: scene.thread.clients.poller.modify(ours.sock.fileno(), ours.interest))
        # The event of it has come, and a second time it is not there.
        scene.do(lambda: None)
        scene.do(lambda: None)
        assert len(steps) == 1
        go_on.set()
        client.sock.settimeout(PATIENCE)
        client.shake()
        client.echo(b"hello")
