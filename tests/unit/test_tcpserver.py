"""`graced.GracefulTCPServer` in place of `socketserver.ThreadingTCPServer`, and its goodbye."""

from __future__ import annotations

import io
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from signal import SIGINT, SIGQUIT, SIGTERM
from typing import Any

import pytest

from graced import GracefulTCPServer, GracefulUnixStreamServer
from graced.signals import STOP
from support import FAREWELL, PATIENCE, Client, environment

Server = GracefulTCPServer


class LineHandler(socketserver.StreamRequestHandler):
    """Echoes a line and closes."""

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
    """Run `serve_forever` in a thread; yield a function that stops the server and waits."""
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


def test_clients_are_served_in_turn(server_class: type[Server], where: Any) -> None:
    server = server_class(where, LineHandler)
    assert server.server_address == server.socket.getsockname()
    with serving(server) as stop:
        for _ in range(3):
            with connect(server) as client:
                client.send(b"hello world\n")
                assert client.recv_to_end() == b"hello world\n"
        stop()
    assert server.socket.fileno() == -1


def test_clients_are_served_concurrently(server_class: type[Server], where: Any) -> None:
    server = server_class(where, EchoHandler)
    with serving(server) as stop:
        with connect(server) as one, connect(server) as two:
            for client in (one, two, one, two):
                client.echo(b"hello")
        stop()


def test_overridden_methods_are_called_as_by_socketserver(tmp_path: Path) -> None:
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
    """Whether `shutdown` comes before, during or after the begin of `serve_forever`."""
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


def test_shutdown_before_serve_forever_returns() -> None:
    """`shutdown` of socketserver hangs there."""
    with GracefulTCPServer(("127.0.0.1", 0), EchoHandler) as server:
        server.shutdown()
        server.serve_forever()


def test_server_may_serve_again() -> None:
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


def test_handle_request(server_class: type[Server], where: Any) -> None:
    with server_class(where, LineHandler) as server, connect(server) as client:
        client.send(b"hello\n")
        server.handle_request()
        assert client.recv_to_end() == b"hello\n"
        server.timeout = 0.01
        server.handle_request()


def test_server_can_be_closed_at_once(server_class: type[Server], where: Any) -> None:
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
    address: Any = ("127.0.0.1", 0)
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
    """Records the exceptions of handlers."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.handled: list[BaseException | None] = []
        self.ended = threading.Semaphore(0)

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.handled.append(sys.exception())

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.ended.release()


def test_exception_of_handler_goes_to_handle_error() -> None:
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


def test_unverified_client_is_closed() -> None:
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


def test_exception_of_verify_request_concerns_one_client() -> None:
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


def test_oserror_of_get_request_concerns_one_client() -> None:
    """As a failed TLS handshake would."""

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


def test_request_of_another_socket_class() -> None:
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


def test_threads_end_with_their_clients() -> None:
    server = GracefulTCPServer(("127.0.0.1", 0), LineHandler)
    before = threading.active_count()
    with serving(server) as stop:
        for _ in range(30):
            with connect(server) as client:
                client.send(b"hello\n")
                client.recv_to_end()
        # The threads of serve_forever, of I/O, and of one handler that may be ending.
        assert threading.active_count() <= before + 3
        stop()


def test_service_actions_are_called_where_overridden() -> None:
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


def test_shutdown_sends_farewell_and_waits_for_clients(
    server_class: type[Server], where: Any
) -> None:
    server = server_class(where, EchoHandler)
    server.farewell = FAREWELL
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
    server = GracefulTCPServer(("127.0.0.1", 0), EchoHandler)
    server.farewell = FAREWELL
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

    server = GracefulTCPServer(("127.0.0.1", 0), Handler)
    server.grace_period = 30
    with serving(server) as stop:
        with connect(server) as client:
            assert client.recv_exactly(5) == b"ready"
            stopping = threading.Thread(target=stop)
            stopping.start()
            assert client.recv_to_end() in {b"30 left", b"29 left"}
        stopping.join(PATIENCE)
        assert not stopping.is_alive()


def test_stuck_handler_does_not_delay_shutdown() -> None:
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
            assert client.recv_to_end() == b""
    finally:
        gate.set()
        for thread in threading.enumerate():
            if thread.name.startswith("handler"):
                thread.join(PATIENCE)


def test_unverified_client_in_drain_delays_no_other_client() -> None:
    """The I/O thread does not wait for the client to close."""

    class Closed(GracefulTCPServer):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            return not self.draining.is_set()

    server = Closed(("127.0.0.1", 0), EchoHandler)
    server.farewell = FAREWELL
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


def test_hanging_get_request_does_not_delay_shutdown() -> None:
    """As a client that is silent in a TLS handshake; the thread keeps its descriptors."""
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
        # The descriptors stay open until the thread has ended.
        os.fstat(engine.changed_fd)
        gate.set()
        stuck.join(PATIENCE)
        assert not stuck.is_alive()
        engine.close()


def test_second_shutdown_does_not_move_deadline() -> None:
    server = GracefulTCPServer(("127.0.0.1", 0), EchoHandler)
    server.farewell = FAREWELL
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


def test_closed_socket_fails_and_shutdown_returns() -> None:
    server = GracefulTCPServer(("127.0.0.1", 0), EchoHandler)
    server.server_close()
    with pytest.raises(OSError, match="Bad file"):
        server.serve_forever()
    server.shutdown()


# The signals of a program.

PROGRAM = """if True:
    import logging, signal, socketserver, sys
    from graced import GracefulTCPServer

    class Echo(socketserver.BaseRequestHandler):
        def handle(self):
            while data := self.request.recv(4096):
                self.request.sendall(data)

    logging.basicConfig(level="INFO", stream=sys.stdout, format="%(message)s")
    before = [signal.getsignal(number) for number in signal.Signals]
    with GracefulTCPServer(("127.0.0.1", 0), Echo) as server:
        server.farewell = b"SHUTDOWN"
        server.grace_period = float(sys.argv[1])
        print(server.server_address[1], flush=True)
        server.serve_until_stopped()
    assert [signal.getsignal(number) for number in signal.Signals] == before
"""


class Program:
    """A program that uses the library as the documentation shows, in a process of its own."""

    def __init__(self, grace_period: float, before: str = "") -> None:
        """`before`: Python code that the program begins with."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", before + PROGRAM, str(grace_period)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Program:
        assert self._process.stdout
        self._port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_failure: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def served(self) -> Client:
        """A client that has been served once: the program catches signals by then."""
        client = Client.connect(f"127.0.0.1:{self._port}")
        client.echo(b"hello")
        return client

    def signal(self, signum: signal.Signals) -> None:
        self._process.send_signal(signum)

    def read_log(self) -> str:
        """The next line of the log."""
        assert self._process.stdout
        return self._process.stdout.readline()

    def expect_clean_exit(self) -> list[str]:
        """Wait for status 0 without a word on stderr; return the rest of the log."""
        out, err = self._process.communicate(timeout=PATIENCE)
        assert (self._process.returncode, err) == (0, "")
        return out.splitlines()


@pytest.mark.parametrize("signum", STOP)
def test_program_says_goodbye_and_exits_on_signal(signum: signal.Signals) -> None:
    with Program(3600) as program, program.served() as one, program.served() as two:
        program.signal(signum)
        for client in (one, two):
            client.expect_farewell_alone()
            client.echo(b"one moment")
            client.close()
        first, last = program.expect_clean_exit()
        assert first == f"{signum.name} received, closing in 3600 s, 2 clients remaining"
        assert last.endswith(": 2 clients departed, 0 closed at the deadline")


@pytest.mark.parametrize("signum", [signal.SIGHUP, SIGINT, SIGQUIT])
def test_program_ignores_what_its_caller_ignores(signum: signal.Signals) -> None:
    before = f"import signal\nsignal.signal({int(signum)}, signal.SIG_IGN)\n"
    with Program(3600, before) as program, program.served() as client:
        program.signal(signum)
        program.signal(SIGTERM)
        client.expect_farewell_alone()
        assert program.read_log().startswith("SIGTERM received, closing in")
        client.close()
        assert len(program.expect_clean_exit()) == 1


def test_program_closes_remaining_client_at_deadline() -> None:
    with Program(0.3) as program, program.served() as client:
        program.signal(SIGTERM)
        assert client.recv_to_end() == FAREWELL
        assert program.expect_clean_exit()[-1].endswith(
            ": 0 clients departed, 1 closed at the deadline"
        )


@pytest.mark.parametrize("impatient", [SIGINT, SIGQUIT])
def test_second_interrupt_ends_grace_period(impatient: signal.Signals) -> None:
    with Program(3600) as program, program.served() as client:
        program.signal(SIGTERM)
        client.expect_farewell_alone()
        assert "closing in 3600 s" in program.read_log()
        program.signal(SIGTERM)
        assert program.read_log() == "SIGTERM received, already closing\n"
        client.echo(b"still here")
        program.signal(impatient)
        client.expect_end()
        ending, _ = program.expect_clean_exit()
        assert ending == f"{impatient.name} received again, ending the grace period now"


def test_shutdown_ends_serve_until_stopped() -> None:
    with GracefulTCPServer(("127.0.0.1", 0), EchoHandler) as server:

        def stop() -> None:
            with connect(server) as client:
                client.echo(b"hello")
            server.shutdown()

        stopping = threading.Thread(target=stop)
        stopping.start()
        server.serve_until_stopped()
        stopping.join()


def test_only_main_thread_may_serve_until_stopped() -> None:
    failures: list[str] = []
    with GracefulTCPServer(("127.0.0.1", 0), EchoHandler) as server:

        def serve() -> None:
            try:
                server.serve_until_stopped()
            except ValueError as error:
                failures.append(str(error))

        thread = threading.Thread(target=serve)
        thread.start()
        thread.join()
        assert "main thread" in failures[0]
        # Nothing has been caught, and the server is as before.
        server.shutdown()
        server.serve_forever()
