"""`graced.GracefulTCPServer` where `socketserver.ThreadingTCPServer` was: what programs rely on.

What CPython's own tests look at, and what they do not: the goodbye.
"""

from __future__ import annotations

import io
import os
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from graced import GracefulTCPServer, GracefulUnixStreamServer
from support import FAREWELL, PATIENCE, Client

Server = GracefulTCPServer


class LineHandler(socketserver.StreamRequestHandler):
    """Echoes a line and hangs up."""

    def handle(self) -> None:
        self.wfile.write(self.rfile.readline())


class EchoHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(4096):
            self.request.sendall(data)


@pytest.fixture(params=[GracefulTCPServer, GracefulUnixStreamServer], ids=["tcp", "unix"])
def server_class(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def where(server_class: type[Server], tmp_path: Path) -> Any:
    if server_class.address_family == socket.AF_UNIX:
        return str(tmp_path / "socket")
    return ("127.0.0.1", 0)


def connect(server: Server) -> Client:
    sock = socket.socket(server.address_family, socket.SOCK_STREAM)
    sock.connect(server.server_address)
    return Client(sock)


@contextmanager
def serving(server: Server, *, poll_interval: float = 0.5) -> Iterator[Callable[[], None]]:
    """Run `serve_forever` in a thread; what is yielded stops it and waits for its end."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            server.serve_forever(poll_interval)
        except BaseException as failure:
            failures.append(failure)

    def stop() -> None:
        server.shutdown()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert not failures

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield stop
    finally:
        server.grace_period = 0
        server.shutdown()
        thread.join()
        server.server_close()


def test_clients_are_served_one_after_the_other(server_class: type[Server], where: Any) -> None:
    server = server_class(where, LineHandler)
    assert server.server_address == server.socket.getsockname()
    with serving(server) as stop:
        for _ in range(3):
            with connect(server) as client:
                client.send(b"hello world\n")
                assert client.recv_to_end() == b"hello world\n"
        stop()
    assert server.socket.fileno() == -1


def test_clients_are_served_at_the_same_time(server_class: type[Server], where: Any) -> None:
    server = server_class(where, EchoHandler)
    with serving(server) as stop:
        with connect(server) as one, connect(server) as two:
            for client in (one, two, one, two):
                client.echo(b"hello")
        stop()


def test_a_subclass_may_override_what_it_could_before(tmp_path: Path) -> None:
    calls: list[str] = []

    class Overriding(GracefulTCPServer):
        def server_bind(self) -> None:
            calls.append("server_bind")
            super().server_bind()

        def server_activate(self) -> None:
            calls.append("server_activate")
            super().server_activate()

        def get_request(self) -> Any:
            request = super().get_request()
            calls.append("get_request")
            return request

        def verify_request(self, request: Any, client_address: Any) -> bool:
            calls.append("verify_request")
            assert isinstance(request, socket.socket)
            assert client_address == request.getpeername()
            return True

        def finish_request(self, request: Any, client_address: Any) -> None:
            calls.append("finish_request")
            super().finish_request(request, client_address)

        def shutdown_request(self, request: Any) -> None:
            calls.append("shutdown_request")
            super().shutdown_request(request)

        def close_request(self, request: Any) -> None:
            calls.append("close_request")
            super().close_request(request)

        def server_close(self) -> None:
            calls.append("server_close")
            super().server_close()

    server = Overriding(("127.0.0.1", 0), LineHandler)
    with serving(server) as stop:
        with connect(server) as client:
            client.send(b"hello\n")
            assert client.recv_to_end() == b"hello\n"
        stop()
    assert calls == [
        "server_bind",
        "server_activate",
        "get_request",
        "verify_request",
        "finish_request",
        "shutdown_request",
        "close_request",
        "server_close",
    ]


def test_shutdown_always_ends_serve_forever() -> None:
    """However early it comes: before, while, or after it begins."""
    pairs = []
    for _ in range(20):
        server = GracefulTCPServer(("127.0.0.1", 0), EchoHandler)
        pairs.append((server, threading.Thread(target=server.serve_forever, args=[0.01])))
    for server, thread in pairs:
        thread.start()
        server.shutdown()
    for server, thread in pairs:
        thread.join(PATIENCE)
        assert not thread.is_alive()
        server.server_close()


def test_shutdown_before_anything_is_served_returns() -> None:
    """That of socketserver hangs."""
    with GracefulTCPServer(("127.0.0.1", 0), EchoHandler) as server:
        server.shutdown()
        server.serve_forever()


def test_it_may_serve_again() -> None:
    with GracefulTCPServer(("127.0.0.1", 0), LineHandler) as server:
        for _ in range(3):
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            with connect(server) as client:
                client.send(b"hello\n")
                assert client.recv_to_end() == b"hello\n"
            server.shutdown()
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_one_request_at_a_time(server_class: type[Server], where: Any) -> None:
    """`handle_request`, as ever."""
    with server_class(where, LineHandler) as server, connect(server) as client:
        client.send(b"hello\n")
        server.handle_request()
        assert client.recv_to_end() == b"hello\n"
        server.timeout = 0.01
        server.handle_request()


def test_it_can_be_closed_at_once(server_class: type[Server], where: Any) -> None:
    with server_class(where, EchoHandler) as server:
        pass
    assert server.socket.fileno() == -1


def test_a_bind_that_fails_leaks_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(100):
        with pytest.raises(OverflowError):
            GracefulTCPServer(("127.0.0.1", -1), EchoHandler)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_port_can_be_taken_again_at_once() -> None:
    address: Any = ("127.0.0.1", 0)
    for _ in range(3):
        server = GracefulTCPServer(address, LineHandler)
        address = server.server_address
        with serving(server), connect(server) as client:
            client.send(b"hello\n")
            # The server hangs up first: its port is in TIME_WAIT.
            assert client.recv_to_end() == b"hello\n"


def test_the_rarer_features_of_a_request_handler() -> None:
    seen: dict[str, Any] = {}
    big = b"x" * 10_000_000

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            seen["fileno"] = (self.wfile.fileno(), self.request.fileno())
            seen["buffered"] = isinstance(self.wfile, io.BufferedIOBase)
            seen["written"] = self.wfile.write(b"write data\n")
            seen["received"] = self.rfile.readline()
            seen["big"] = self.wfile.write(big)

    server = GracefulTCPServer(("127.0.0.1", 0), Handler)
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


class Recording(GracefulTCPServer):
    """Writes down what went wrong."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.handled: list[BaseException | None] = []
        self.ended = threading.Semaphore(0)

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.handled.append(sys.exception())

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.ended.release()


def test_an_exception_of_a_handler_goes_to_handle_error_and_the_server_goes_on() -> None:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            raise ValueError("as expected")

    server = Recording(("127.0.0.1", 0), Handler)
    with serving(server) as stop:
        for _ in range(3):
            with connect(server) as client:
                assert client.recv_to_end() == b""
        stop()
    assert [str(error) for error in server.handled] == ["as expected"] * 3


def test_a_client_that_is_not_verified_is_closed_and_the_others_are_served() -> None:
    class Choosy(Recording):
        verdicts: Any = iter([False, True, False, True])

        def verify_request(self, request: Any, client_address: Any) -> bool:
            return bool(next(self.verdicts))

    server = Choosy(("127.0.0.1", 0), LineHandler)
    with serving(server) as stop:
        for _ in range(2):
            with connect(server) as client:
                assert client.recv_to_end() == b""
            with connect(server) as client:
                client.send(b"hello\n")
                assert client.recv_to_end() == b"hello\n"
        for _ in range(4):
            assert server.ended.acquire(timeout=PATIENCE)
        stop()
    assert not server.handled


def test_an_exception_of_verify_request_concerns_but_one_client() -> None:
    class Failing(Recording):
        failures: Any = iter([LookupError("who are you?")])

        def verify_request(self, request: Any, client_address: Any) -> bool:
            for failure in self.failures:
                raise failure
            return True

    server = Failing(("127.0.0.1", 0), LineHandler)
    with serving(server) as stop:
        with connect(server) as client:
            assert client.recv_to_end() == b""
        with connect(server) as client:
            client.send(b"hello\n")
            assert client.recv_to_end() == b"hello\n"
        stop()
    assert [str(error) for error in server.handled] == ["who are you?"]


def test_an_oserror_of_get_request_concerns_but_one_client() -> None:
    """As of a TLS handshake in there."""

    class Handshaking(Recording):
        failures: Any = iter([OSError(1, "bad handshake"), OSError(0, "Error"), TimeoutError()])

        def get_request(self) -> Any:
            request, address = super().get_request()
            for failure in self.failures:
                request.close()
                raise failure
            return request, address

    server = Handshaking(("127.0.0.1", 0), LineHandler)
    with serving(server) as stop:
        for _ in range(3):
            with connect(server) as client:
                assert client.recv_to_end() == b""
        with connect(server) as client:
            client.send(b"hello\n")
            assert client.recv_to_end() == b"hello\n"
        stop()


def test_a_request_may_be_a_socket_of_another_class() -> None:
    class Special(socket.socket):
        pass

    class Wrapping(GracefulTCPServer):
        def get_request(self) -> Any:
            request, address = super().get_request()
            return Special(fileno=request.detach()), address

    class Handler(EchoHandler):
        def handle(self) -> None:
            assert type(self.request) is Special
            super().handle()

    server = Wrapping(("127.0.0.1", 0), Handler)
    with serving(server) as stop:
        with connect(server) as client:
            client.echo(b"hello")
        stop()


def test_threads_are_not_kept() -> None:
    server = GracefulTCPServer(("127.0.0.1", 0), LineHandler)
    before = threading.active_count()
    with serving(server) as stop:
        for _ in range(30):
            with connect(server) as client:
                client.send(b"hello\n")
                client.recv_to_end()
        # serve_forever, its I/O thread, one handler's that may be ending.
        assert threading.active_count() <= before + 3
        stop()


def test_service_actions_are_called_when_there_are_any() -> None:
    class Acting(GracefulTCPServer):
        acted = threading.Semaphore(0)

        def service_actions(self) -> None:
            self.acted.release()

    server = Acting(("127.0.0.1", 0), EchoHandler)
    with serving(server, poll_interval=0.01) as stop:
        for _ in range(5):
            assert server.acted.acquire(timeout=PATIENCE)
        stop()


# The goodbye.


def test_shutdown_tells_every_client_and_waits_for_them(
    server_class: type[Server], where: Any
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


def test_shutdown_closes_who_stays() -> None:
    server = GracefulTCPServer(("127.0.0.1", 0), EchoHandler)
    server.grace_period = 0.5
    with serving(server) as stop, connect(server) as client:
        client.echo(b"hello")
        began = time.monotonic()
        stop()
        assert time.monotonic() - began >= 0.5
        assert client.recv_to_end() == FAREWELL


def test_a_handler_can_take_part_in_the_goodbye() -> None:
    class Handler(socketserver.BaseRequestHandler):
        server: Any

        def handle(self) -> None:
            self.request.sendall(b"ready")
            self.server.draining.wait(PATIENCE)
            left = self.server.deadline - time.monotonic()
            self.request.sendall(b"%d left" % round(left))

    server = GracefulTCPServer(("127.0.0.1", 0), Handler)
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


def test_a_handler_that_never_returns_does_not_hold_shutdown_up() -> None:
    gate = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"stuck")
            gate.wait()

    server = GracefulTCPServer(("127.0.0.1", 0), Handler)
    server.grace_period = 0.1
    try:
        with serving(server) as stop, connect(server) as client:
            assert client.recv_exactly(5) == b"stuck"
            stop()
            assert client.recv_to_end() == FAREWELL
    finally:
        gate.set()
        for thread in threading.enumerate():
            if thread.name.startswith("handler"):
                thread.join(PATIENCE)


def test_who_is_turned_down_in_the_drain_holds_nobody_up() -> None:
    """It stays, and waiting for it is no business of the thread that serves the others."""

    class Closed(GracefulTCPServer):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            return not self.draining.is_set()

    server = Closed(("127.0.0.1", 0), EchoHandler)
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


def test_a_client_that_never_comes_in_does_not_hold_shutdown_up() -> None:
    """As one that is silent in a TLS handshake; the thread is left behind with its descriptors."""
    gate = threading.Event()
    inside = threading.Event()

    class Shaking(GracefulTCPServer):
        def get_request(self) -> Any:
            inside.set()
            assert gate.wait(PATIENCE)
            raise BlockingIOError

    server = Shaking(("127.0.0.1", 0), EchoHandler)
    server.grace_period = 0.2
    with serving(server) as stop, connect(server):
        assert inside.wait(PATIENCE)
        (stuck,) = [t for t in threading.enumerate() if t.name.startswith("io-")]
        assert server._engine
        engine = server._engine
        stop()
        assert stuck.is_alive()
        # Nobody else may be given these numbers before the thread is over.
        os.fstat(engine.changed_fd)
        gate.set()
        stuck.join(PATIENCE)
        assert not stuck.is_alive()
        engine.close()


def test_another_shutdown_does_not_move_the_deadline() -> None:
    server = GracefulTCPServer(("127.0.0.1", 0), EchoHandler)
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


def test_serving_on_a_closed_socket_fails_and_shutdown_returns() -> None:
    server = GracefulTCPServer(("127.0.0.1", 0), EchoHandler)
    server.server_close()
    with pytest.raises(OSError, match="Bad file"):
        server.serve_forever()
    server.shutdown()
