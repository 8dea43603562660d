"""The listening socket: how it is made, found, watched and closed."""

from __future__ import annotations

import selectors
import socket
import threading

import pytest

from graced import GracefulTCPServer
from support import PATIENCE
from support.library import LOCALHOST, EchoHandler, LineHandler, connect, expect_line, serving


class JoiningServer(GracefulTCPServer):
    """Waits in `server_close` for the threads of `handle_request`."""

    daemon_threads = False


def test_bind_and_activate_later() -> None:
    server = GracefulTCPServer(LOCALHOST, LineHandler, bind_and_activate=False)
    assert server.server_address == LOCALHOST
    server.server_bind()
    assert server.server_address[1] != 0
    server.server_activate()
    with serving(server) as stop:
        expect_line(server)
        stop()


def test_socket_that_does_not_listen_is_refused() -> None:
    """In `socketserver` the loop takes a whole processor, and accepts nobody."""
    with (
        GracefulTCPServer(LOCALHOST, EchoHandler, bind_and_activate=False) as server,
        pytest.raises(OSError, match="the socket of the server does not listen"),
    ):
        server.serve_forever()


def test_socket_of_the_program() -> None:
    """As with socket activation: the program brings a socket that listens."""
    with socket.create_server(LOCALHOST) as listener:
        server = GracefulTCPServer(LOCALHOST, LineHandler, bind_and_activate=False)
        server.socket.close()
        server.socket = listener
        server.server_address = listener.getsockname()
        with serving(server) as stop:
            expect_line(server)
            stop()


def test_options_of_the_listening_socket() -> None:
    calls: list[int] = []

    class Server(GracefulTCPServer):
        allow_reuse_address = False
        allow_reuse_port = True
        request_queue_size = 7

        def server_activate(self) -> None:
            calls.append(self.request_queue_size)
            super().server_activate()

    with Server(LOCALHOST, EchoHandler) as server:
        assert server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
        assert server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1
        with Server(server.server_address, EchoHandler) as other:
            assert other.server_address == server.server_address
    assert calls == [7, 7]


def test_ipv6() -> None:
    class Server(GracefulTCPServer):
        address_family = socket.AF_INET6

    server = Server(("::1", 0), LineHandler)
    assert server.server_address == server.socket.getsockname()
    with serving(server) as stop:
        expect_line(server)
        stop()


def test_fileno_for_a_loop_of_the_program() -> None:
    with (
        JoiningServer(LOCALHOST, LineHandler) as server,
        selectors.DefaultSelector() as selector,
        connect(server) as client,
    ):
        assert server.fileno() == server.socket.fileno()
        selector.register(server, selectors.EVENT_READ)
        client.send(b"hello\n")
        assert selector.select(PATIENCE)
        server.handle_request()
        assert client.recv_to_end() == b"hello\n"


@pytest.mark.parametrize("timeout", [None, 600.0])
def test_timeout_of_the_listening_socket_is_restored(timeout: float | None) -> None:
    server = GracefulTCPServer(LOCALHOST, LineHandler)
    server.socket.settimeout(timeout)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with server, connect(server) as client:
        client.send(b"hello\n")
        assert client.recv_to_end() == b"hello\n"
        server.shutdown()
        thread.join(PATIENCE)
        assert server.socket.gettimeout() == timeout


def test_connection_after_serve_forever_waits_for_the_next() -> None:
    with JoiningServer(LOCALHOST, LineHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        expect_line(server)
        server.shutdown()
        thread.join(PATIENCE)
        with connect(server) as client:
            client.send(b"again\n")
            server.handle_request()
            assert client.recv_to_end() == b"again\n"


def test_handle_request_calls_handle_timeout() -> None:
    class Server(GracefulTCPServer):
        timeout: float | None = 0.01
        timeouts = 0

        def handle_timeout(self) -> None:
            self.timeouts += 1

    with Server(LOCALHOST, EchoHandler) as server:
        server.handle_request()
        server.socket.settimeout(0.001)
        server.timeout = None
        server.handle_request()
    assert server.timeouts == 2


def test_serve_forever_ignores_timeout() -> None:
    class Server(GracefulTCPServer):
        timeout = 0.001

        def handle_timeout(self) -> None:
            raise AssertionError

        acted = threading.Semaphore(0)

        def service_actions(self) -> None:
            self.acted.release()

    server = Server(LOCALHOST, EchoHandler)
    with serving(server, poll_interval=0.01) as stop:
        for _ in range(3):
            assert server.acted.acquire(timeout=PATIENCE)
        stop()
