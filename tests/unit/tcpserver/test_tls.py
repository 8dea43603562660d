"""TLS, at each place where a program wraps its sockets."""

from __future__ import annotations

import socketserver
import ssl
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

from graced import GracefulTCPServer
from support import PATIENCE
from support.library import LOCALHOST, EchoHandler, OwnThreads, draining, serving
from support.tls import connect_tls, server_context


class WrapsInGetRequest(GracefulTCPServer):
    def get_request(self) -> Any:
        request, address = super().get_request()
        return server_context().wrap_socket(request, server_side=True), address


class WrapsInProcessRequest(GracefulTCPServer):
    def process_request(self, request: Any, client_address: Any) -> None:
        wrapped = server_context().wrap_socket(request, server_side=True)
        super().process_request(wrapped, client_address)


class WrapsInFinishRequest(GracefulTCPServer):
    def finish_request(self, request: Any, client_address: Any) -> None:
        with server_context().wrap_socket(request, server_side=True) as wrapped:
            super().finish_request(wrapped, client_address)


class WrapsListener(GracefulTCPServer):
    """As the documentation of `http.server` shows."""

    def server_activate(self) -> None:
        super().server_activate()
        self.socket = server_context().wrap_socket(self.socket, server_side=True)


class WrapsInOwnThread(OwnThreads):
    def work(self, request: Any, client_address: Any) -> None:
        wrapped = server_context().wrap_socket(request, server_side=True)
        super().work(wrapped, client_address)


PLACES = [
    WrapsInOwnThread,
    WrapsInGetRequest,
    WrapsInProcessRequest,
    WrapsInFinishRequest,
    WrapsListener,
]


@pytest.mark.parametrize("server_class", PLACES)
def test_tls_client_is_served_and_waited_for(server_class: type[GracefulTCPServer]) -> None:
    server = server_class(LOCALHOST, EchoHandler)
    with serving(server) as stop, connect_tls(server.server_address) as client:
        client.echo(b"hello")
        with draining(server):
            client.close()
        stop()


class StubbornHandler(socketserver.BaseRequestHandler):
    """Echoes; notes its end."""

    ended: threading.Event

    def handle(self) -> None:
        try:
            while data := self.request.recv(4096):
                self.request.sendall(data)
        finally:
            self.server.ended.set()  # type: ignore[attr-defined]


@pytest.mark.parametrize("server_class", PLACES)
def test_tls_handler_ends_at_deadline(server_class: type[GracefulTCPServer]) -> None:
    server: Any = server_class(LOCALHOST, StubbornHandler)
    server.ended = threading.Event()
    server.grace_period = 0.3
    server.handle_error = lambda *_: None
    with serving(server) as stop, connect_tls(server.server_address) as client:
        client.echo(b"hello")
        began = time.monotonic()
        stop()
        assert time.monotonic() - began < 1.5
        assert server.ended.wait(PATIENCE)
        with pytest.raises(OSError):  # noqa: PT011, PT012
            client.expect_end()
            raise OSError


@pytest.mark.parametrize("server_class", PLACES)
def test_tls_client_at_rest_hears_end_of_file(server_class: type[GracefulTCPServer]) -> None:
    """Some versions of OpenSSL send an alert when their input ends."""
    server = server_class(LOCALHOST, EchoHandler)
    with serving(server) as stop, connect_tls(server.server_address) as client:
        client.echo(b"hello")
        with draining(server):
            with suppress(ssl.SSLError):
                assert client.recv() == b""
            client.close()
        stop()
