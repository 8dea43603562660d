"""`shutdown`: which thread may call it, and when it returns."""

from __future__ import annotations

import os
import signal
import socketserver
import threading
from collections.abc import Callable
from typing import Any

import pytest

from graced import GracefulTCPServer
from support import PATIENCE
from support.library import (
    LOCALHOST,
    EchoHandler,
    LineHandler,
    OwnThreads,
    TellingServer,
    connect,
    engine_of,
    expect_line,
    serving,
)


def test_shutdown_always_ends_serve_forever() -> None:
    """Whether `shutdown` comes before, during or after the begin of `serve_forever`."""
    pairs = []
    for _ in range(20):
        server = TellingServer(LOCALHOST, EchoHandler)
        pairs.append((server, threading.Thread(target=server.serve_forever, args=[0.01])))
    for server, thread in pairs:
        thread.start()
        server.shutdown()
    for server, thread in pairs:
        thread.join(PATIENCE)
        assert not thread.is_alive()
        server.server_close()


def test_shutdown_before_serve_forever_returns() -> None:
    """`shutdown` of socketserver hangs there."""
    with TellingServer(LOCALHOST, EchoHandler) as server:
        server.shutdown()
        server.serve_forever()


def test_stuck_handler_does_not_delay_shutdown() -> None:
    gate = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"stuck")
            gate.wait()

    server = TellingServer(LOCALHOST, Handler)
    server.grace_period = 0.1
    try:
        with serving(server) as stop, connect(server) as client:
            assert client.recv_exactly(5) == b"stuck"
            stop()
            assert client.recv_to_end() == b""
    finally:
        gate.set()
        for thread in threading.enumerate():
            if thread.name.startswith("handler"):
                thread.join(PATIENCE)


def test_hanging_get_request_does_not_delay_shutdown() -> None:
    """As a client that is silent in a TLS handshake; the thread keeps its descriptors."""
    gate = threading.Event()
    inside = threading.Event()

    class Shaking(TellingServer):
        def get_request(self) -> Any:
            inside.set()
            assert gate.wait(PATIENCE)
            raise BlockingIOError

    server = Shaking(LOCALHOST, EchoHandler)
    server.grace_period = 0.2
    with serving(server) as stop, connect(server):
        assert inside.wait(PATIENCE)
        (stuck,) = [t for t in threading.enumerate() if t.name.startswith("io-")]
        engine = engine_of(server)
        stop()
        assert stuck.is_alive()
        # The descriptors stay open until the thread has ended.
        os.fstat(engine.changed_fd)
        gate.set()
        stuck.join(PATIENCE)
        assert not stuck.is_alive()
        engine.close()


def test_second_shutdown_does_not_move_deadline() -> None:
    server = TellingServer(LOCALHOST, EchoHandler)
    server.grace_period = 600
    with serving(server), connect(server) as client:
        client.echo(b"hello")
        stopping = [threading.Thread(target=server.shutdown) for _ in range(2)]
        stopping[0].start()
        client.expect_farewell_alone()
        deadline = server.deadline
        stopping[1].start()
        client.echo(b"still here")
        assert server.deadline == deadline
        client.close()
        for thread in stopping:
            thread.join(PATIENCE)


def shut_down_base(server: GracefulTCPServer) -> None:
    """As jsonrpclib's pooled server does, past an overriding method."""
    socketserver.TCPServer.shutdown(server)


WAYS = [GracefulTCPServer.shutdown, shut_down_base]


@pytest.mark.parametrize("shut_down", WAYS)
def test_either_way_to_shut_down_says_goodbye(
    shut_down: Callable[[GracefulTCPServer], None],
) -> None:
    server = TellingServer(LOCALHOST, EchoHandler)
    with serving(server), connect(server) as client:
        client.echo(b"hello")
        stopping = threading.Thread(target=shut_down, args=[server])
        stopping.start()
        client.expect_farewell_alone()
        client.echo(b"one moment")
        assert stopping.is_alive()
        client.close()
        stopping.join(PATIENCE)
        assert not stopping.is_alive()


@pytest.mark.parametrize("shut_down", WAYS)
def test_shutdown_in_handler_does_not_wait_for_the_handler(
    shut_down: Callable[[GracefulTCPServer], None],
) -> None:
    class Stopping(socketserver.BaseRequestHandler):
        server: GracefulTCPServer

        def handle(self) -> None:
            self.request.recv(100)
            shut_down(self.server)
            assert self.server.draining.is_set()
            self.request.sendall(b"stopping")

    server = TellingServer(LOCALHOST, Stopping)
    server.grace_period = 600
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with server, connect(server) as client:
        client.send(b"stop")
        assert client.recv_exactly(8) == b"stopping"
        client.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.parametrize("shut_down", WAYS)
@pytest.mark.parametrize("method", ["service_actions", "get_request", "process_request"])
def test_shutdown_in_method_of_server_does_not_wait(
    method: str, shut_down: Callable[[GracefulTCPServer], None]
) -> None:
    class Stopping(GracefulTCPServer):
        def service_actions(self) -> None:
            if method == "service_actions":
                shut_down(self)

        def get_request(self) -> Any:
            if method == "get_request":
                shut_down(self)
            return super().get_request()

        def process_request(self, request: Any, client_address: Any) -> None:
            if method == "process_request":
                shut_down(self)
            super().process_request(request, client_address)

    with Stopping(LOCALHOST, LineHandler) as server, connect(server) as client:
        client.send(b"hello\n")
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        client.recv_to_end()
        client.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_shutdown_in_thread_of_own_pool_does_not_wait() -> None:
    class Stopping(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.server.shutdown()
            self.request.sendall(b"stopping")

    class Own(OwnThreads):
        farewell = b""

    with Own(LOCALHOST, Stopping) as server, connect(server) as client:
        server.grace_period = 600
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert client.recv_to_end() == b"stopping"
        client.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_shutdown_of_another_base_class_is_called() -> None:
    """As pynetdicom's, which closes the server and takes it out of a list."""

    class Listed(socketserver.TCPServer):
        listed = True

        def shutdown(self) -> None:
            super().shutdown()
            self.server_close()
            self.listed = False

    class Server(GracefulTCPServer, Listed):
        pass

    server = Server(LOCALHOST, EchoHandler)
    with serving(server) as stop:
        stop()
    assert not server.listed


def test_loop_of_socketserver_ends_by_shutdown() -> None:
    """Called past our `serve_forever`, it serves, and there is no goodbye."""
    with GracefulTCPServer(LOCALHOST, LineHandler) as server:
        thread = threading.Thread(target=socketserver.BaseServer.serve_forever, args=[server, 0.01])
        thread.start()
        expect_line(server)
        server.shutdown()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_second_serve_forever_at_the_same_time_returns_with_the_first() -> None:
    """As in programs that call the method in a thread, and in the main thread too."""
    server = GracefulTCPServer(LOCALHOST, EchoHandler)
    with serving(server) as stop, connect(server) as client:
        client.echo(b"hello")
        second = threading.Thread(target=server.serve_forever)
        second.start()
        client.echo(b"still served")
        with pytest.raises(RuntimeError, match="another thread is in serve_forever"):
            server.serve_until_stopped()
        client.close()
        assert second.is_alive()
        stop()
        second.join(PATIENCE)
        assert not second.is_alive()


def test_serve_forever_in_handler_is_refused() -> None:
    class Serving(socketserver.BaseRequestHandler):
        server: GracefulTCPServer

        def handle(self) -> None:
            with pytest.raises(RuntimeError, match="waits for this thread"):
                self.server.serve_forever()
            self.request.sendall(b"refused")

    server = GracefulTCPServer(LOCALHOST, Serving)
    with serving(server) as stop:
        with connect(server) as client:
            assert client.recv_to_end() == b"refused"
        stop()


def test_server_closed_before_its_shutdown() -> None:
    """The listening socket is closed under `serve_forever`."""
    server = GracefulTCPServer(LOCALHOST, EchoHandler)
    with serving(server) as stop, connect(server) as client:
        client.echo(b"hello")
        server.server_close()
        client.echo(b"still served")
        client.close()
        stop()


def test_server_closes_although_it_never_served() -> None:
    """As jsonrpclib's pooled server, whose `server_close` shuts down."""

    class Closing(GracefulTCPServer):
        def server_close(self) -> None:
            self.shutdown()
            super().server_close()

    with Closing(LOCALHOST, EchoHandler):
        pass


@pytest.mark.parametrize("waits", [True, False])
def test_server_close_waits_for_handlers_that_are_not_daemonic(waits: bool) -> None:
    gate = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"busy")
            gate.wait(PATIENCE)

    class Waiting(GracefulTCPServer):
        daemon_threads = False
        block_on_close = waits
        grace_period = 0.1

    server = Waiting(LOCALHOST, Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with connect(server) as client:
        assert client.recv_exactly(4) == b"busy"
        (handler,) = [t for t in threading.enumerate() if t.name.startswith("handler ")]
        assert not handler.daemon
        server.shutdown()
        thread.join(PATIENCE)
        closing = threading.Thread(target=server.server_close)
        closing.start()
        if waits:
            assert closing.is_alive()
        else:
            closing.join(PATIENCE)
            assert not closing.is_alive()
        assert handler.is_alive()
        gate.set()
        closing.join(PATIENCE)
        handler.join(PATIENCE)
        assert not closing.is_alive()
        assert not handler.is_alive()


def test_shutdown_in_signal_handler_of_the_serving_thread() -> None:
    class Alarming(GracefulTCPServer):
        def service_actions(self) -> None:
            signal.raise_signal(signal.SIGALRM)

    with Alarming(LOCALHOST, EchoHandler) as server, connect(server) as client:
        before = signal.signal(signal.SIGALRM, lambda *_: server.shutdown())
        try:
            client.close()
            server.serve_forever(0.01)
        finally:
            signal.signal(signal.SIGALRM, before)


def test_flag_of_socketserver_begins_the_drain() -> None:
    """As programs set it that have no thread to spare for `shutdown`."""

    class Stopping(socketserver.BaseRequestHandler):
        server: Any

        def handle(self) -> None:
            self.server._BaseServer__shutdown_request = True
            self.request.sendall(b"stopping")

    with TellingServer(LOCALHOST, Stopping) as server, connect(server) as client:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert client.recv_exactly(8) == b"stopping"
        client.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()
