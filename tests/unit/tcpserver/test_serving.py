"""Clients are served as by `socketserver.ThreadingTCPServer`."""

from __future__ import annotations

import io
import os
import socketserver
import threading
from typing import Any

import pytest

from graced import GracefulTCPServer
from support import PATIENCE, attempts
from support.library import LOCALHOST, EchoHandler, LineHandler, connect, expect_line, serving


def test_clients_are_served_in_turn(server_class: type[GracefulTCPServer], where: Any) -> None:
    server = server_class(where, LineHandler)
    assert server.server_address == server.socket.getsockname()
    with serving(server) as stop:
        for _ in range(3):
            with connect(server) as client:
                client.send(b"hello world\n")
                assert client.recv_to_end() == b"hello world\n"
        stop()
    assert server.socket.fileno() == -1


def test_clients_are_served_concurrently(server_class: type[GracefulTCPServer], where: Any) -> None:
    server = server_class(where, EchoHandler)
    with serving(server) as stop:
        with connect(server) as one, connect(server) as two:
            for client in (one, two, one, two):
                client.echo(b"hello")
        stop()


def test_server_may_serve_again() -> None:
    with GracefulTCPServer(LOCALHOST, LineHandler) as server:
        for _ in range(3):
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            expect_line(server)
            server.shutdown()
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_handle_request(server_class: type[GracefulTCPServer], where: Any) -> None:
    with server_class(where, LineHandler) as server, connect(server) as client:
        server.daemon_threads = False
        client.send(b"hello\n")
        server.handle_request()
        assert client.recv_to_end() == b"hello\n"
        server.timeout = 0.01
        server.handle_request()


def test_server_can_be_closed_at_once(server_class: type[GracefulTCPServer], where: Any) -> None:
    with server_class(where, EchoHandler) as server:
        pass
    assert server.socket.fileno() == -1


def test_failed_bind_leaks_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(100):
        with pytest.raises(OverflowError):
            GracefulTCPServer(("127.0.0.1", -1), EchoHandler)
    assert len(os.listdir("/proc/self/fd")) == before


def test_port_can_be_reused_at_once() -> None:
    address: Any = LOCALHOST
    for _ in range(3):
        server = GracefulTCPServer(address, LineHandler)
        address = server.server_address
        with serving(server), connect(server) as client:
            client.send(b"hello\n")
            # The server closes first: its port is in TIME_WAIT.
            assert client.recv_to_end() == b"hello\n"


def test_rare_features_of_request_handler() -> None:
    seen: dict[str, Any] = {}
    big = b"x" * 10_000_000

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            seen["fileno"] = (self.wfile.fileno(), self.request.fileno())
            seen["buffered"] = isinstance(self.wfile, io.BufferedIOBase)
            seen["written"] = self.wfile.write(b"write data\n")
            seen["received"] = self.rfile.readline()
            seen["big"] = self.wfile.write(big)

    server = GracefulTCPServer(LOCALHOST, Handler)
    with serving(server) as stop:
        with connect(server) as client:
            assert client.recv_exactly(11) == b"write data\n"
            client.send(b"client response\n")
            assert client.recv_to_end() == big
        stop()
    assert seen["fileno"][0] == seen["fileno"][1]
    assert seen["buffered"] is True
    assert (seen["written"], seen["received"]) == (11, b"client response\n")
    assert seen["big"] == len(big)


def test_threads_end_with_their_clients() -> None:
    server = GracefulTCPServer(LOCALHOST, LineHandler)
    before = threading.active_count()
    with serving(server) as stop:
        for _ in range(30):
            with connect(server) as client:
                client.send(b"hello\n")
                client.recv_to_end()
        # Those of serve_forever and of I/O remain.  A thread whose client another has served may
        # begin, and end, after the client has gone.
        for _ in attempts("only two threads more than before"):
            if threading.active_count() <= before + 2:
                break
            for thread in threading.enumerate():
                if thread.name.startswith("handler") and thread.is_alive():
                    thread.join(PATIENCE)
        stop()


def test_closed_socket_fails_and_shutdown_returns() -> None:
    server = GracefulTCPServer(LOCALHOST, EchoHandler)
    server.server_close()
    with pytest.raises(OSError, match="Bad file"):
        server.serve_forever()
    server.shutdown()
