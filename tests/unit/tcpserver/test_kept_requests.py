"""Requests that outlive their handler, in the hands of another thread or of none."""

from __future__ import annotations

import gc
import socket
import socketserver
import threading
import time
from queue import SimpleQueue
from typing import Any

import pytest

from graced import GracefulTCPServer
from support import FAREWELL, PATIENCE
from support.library import (
    LOCALHOST,
    TellingServer,
    connect,
    draining,
    engine_of,
    serving,
)


class LeavingServer(TellingServer):
    """Closes nothing: the handler gives its connection to another thread."""

    requests: SimpleQueue[Any]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.requests = SimpleQueue()

    def shutdown_request(self, request: Any) -> None:
        """Leave the request open."""


class LeavingHandler(socketserver.BaseRequestHandler):
    server: LeavingServer

    def handle(self) -> None:
        self.server.requests.put(self.request)


def echo(request: socket.socket) -> None:
    while data := request.recv(100):
        request.sendall(data)
    # By none of the server's methods.
    request.close()


def test_request_that_is_kept_stays_open() -> None:
    server = LeavingServer(LOCALHOST, LeavingHandler)
    with serving(server) as stop, connect(server) as client:
        thread = threading.Thread(target=echo, args=[server.requests.get(timeout=PATIENCE)])
        thread.start()
        client.echo(b"hello")
        with draining(server) as stopping:
            client.expect_farewell_alone()
            client.echo(b"bye")
            assert stopping.is_alive()
            client.close()
        thread.join(PATIENCE)
        stop()


def test_farewell_is_not_said_in_an_answer_of_another_thread() -> None:
    """The thread that answers is unknown; none waits for the client."""
    server = LeavingServer(LOCALHOST, LeavingHandler)
    with serving(server), connect(server) as client:
        request = server.requests.get(timeout=PATIENCE)
        request.sendall(b"first half, ")
        assert client.recv_exactly(12) == b"first half, "
        server.grace_period = 1.0
        server.shutdown()
        assert client.recv_to_end() == b""
        request.close()


def test_request_that_is_kept_is_closed_at_deadline() -> None:
    server = LeavingServer(LOCALHOST, LeavingHandler)
    server.grace_period = 0.3
    with serving(server) as stop, connect(server) as client:
        request = server.requests.get(timeout=PATIENCE)
        stop()
        assert client.recv_to_end() == FAREWELL
        assert request.recv(100) == b""
        request.close()


@pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_request_that_is_dropped_is_closed_by_the_interpreter() -> None:
    server = LeavingServer(LOCALHOST, LeavingHandler)
    with serving(server) as stop, connect(server) as client:
        server.requests.get(timeout=PATIENCE)
        gc.collect()
        client.expect_end()
        began = time.monotonic()
        stop()
        assert time.monotonic() - began < GracefulTCPServer.grace_period


@pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_requests_that_are_dropped_cost_nothing() -> None:
    """The server forgets the clients without a drain."""
    server = LeavingServer(LOCALHOST, LeavingHandler)
    with serving(server) as stop:
        for _ in range(300):
            with connect(server) as client:
                server.requests.get(timeout=PATIENCE)
                client.expect_end()
        assert engine_of(server).clients < 200
        stop()
