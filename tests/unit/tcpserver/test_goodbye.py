"""The goodbye of a server of the library."""

from __future__ import annotations

import socketserver
import threading
import time
from contextlib import ExitStack
from typing import Any

import pytest

from graced import GracefulTCPServer
from support import FAREWELL, PATIENCE
from support.library import LOCALHOST, EchoHandler, TellingServer, connect, serving


def test_shutdown_sends_farewell_and_waits_for_clients(
    server_class: type[GracefulTCPServer], where: Any
) -> None:
    server = server_class(where, EchoHandler)
    server.grace_period = 600
    with serving(server) as stop:
        with connect(server) as silent, connect(server) as talking:
            talking.echo(b"hello")
            stopping = threading.Thread(target=stop)
            stopping.start()
            for client in (silent, talking):
                client.expect_farewell_alone()
                client.echo(b"one moment")
            assert stopping.is_alive()
            with connect(server) as late:
                late.send(b"hello?")
                assert late.recv_to_end() == FAREWELL
        stopping.join(PATIENCE)
        assert not stopping.is_alive()


def test_shutdown_closes_remaining_client_at_deadline() -> None:
    server = TellingServer(LOCALHOST, EchoHandler)
    server.grace_period = 0.5
    with serving(server) as stop, connect(server) as client:
        client.echo(b"hello")
        began = time.monotonic()
        stop()
        assert time.monotonic() - began >= 0.5
        assert client.recv_to_end() == FAREWELL


def test_handler_sees_draining_and_deadline() -> None:
    class Handler(socketserver.BaseRequestHandler):
        server: Any

        def handle(self) -> None:
            self.request.sendall(b"ready")
            self.server.draining.wait(PATIENCE)
            left = self.server.deadline - time.monotonic()
            self.request.sendall(b"%d left" % round(left))

    server = TellingServer(LOCALHOST, Handler)
    server.farewell = b""
    server.grace_period = 30
    with serving(server) as stop:
        with connect(server) as client:
            assert client.recv_exactly(5) == b"ready"
            stopping = threading.Thread(target=stop)
            stopping.start()
            assert client.recv_to_end() in {b"30 left", b"29 left"}
        stopping.join(PATIENCE)
        assert not stopping.is_alive()


def test_unverified_client_in_drain_delays_no_other_client() -> None:
    """The I/O thread does not wait for the client to close."""

    class Closed(TellingServer):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            return not self.draining.is_set()

    server = Closed(LOCALHOST, EchoHandler)
    server.grace_period = 600
    with serving(server) as stop, ExitStack() as stack:
        with connect(server) as client:
            client.echo(b"hello")
            stopping = threading.Thread(target=stop)
            stopping.start()
            client.expect_farewell_alone()
            late = [stack.enter_context(connect(server)) for _ in range(20)]
            for each in late:
                each.expect_end()
            client.echo(b"still here")
        stopping.join(PATIENCE)
        assert not stopping.is_alive()


def test_farewell_may_be_text() -> None:
    server: Any = TellingServer(LOCALHOST, EchoHandler)
    server.grace_period = 0.5
    server.farewell = "Tsch\u00fc\u00df"
    with serving(server) as stop, connect(server) as client:
        client.echo(b"hello")
        stop()
        assert client.recv_to_end() == "Tsch\u00fc\u00df".encode()


@pytest.mark.parametrize("farewell", [7, ["bye"], "\udc80", lambda: b"bye"])
def test_farewell_of_wrong_type_is_refused_before_a_client_is_served(farewell: Any) -> None:
    with TellingServer(LOCALHOST, EchoHandler) as server:
        server.farewell = farewell
        with pytest.raises(TypeError, match="farewell must be bytes"):
            server.serve_forever()
