"""Methods that a subclass overrides: when they are called, and with what."""

from __future__ import annotations

import socket
import socketserver
import sys
import threading
from typing import Any

import pytest

from graced import GracefulTCPServer
from support import FAREWELL, PATIENCE
from support.library import (
    LOCALHOST,
    EchoHandler,
    LineHandler,
    Recording,
    TellingServer,
    connect,
    draining,
    expect_close,
    expect_line,
    serving,
)


def test_overridden_methods_are_called_as_by_socketserver() -> None:
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

    server = Overriding(LOCALHOST, LineHandler)
    with serving(server) as stop:
        expect_line(server)
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


def test_exception_of_handler_goes_to_handle_error() -> None:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            raise ValueError("as expected")

    server = Recording(LOCALHOST, Handler)
    with serving(server) as stop:
        for _ in range(3):
            expect_close(server)
        stop()
    assert [str(error) for error in server.handled] == ["as expected"] * 3


def test_unverified_client_is_closed() -> None:
    class Choosy(Recording):
        verdicts: Any = iter([False, True, False, True])

        def verify_request(self, request: Any, client_address: Any) -> bool:
            return bool(next(self.verdicts))

    server = Choosy(LOCALHOST, LineHandler)
    with serving(server) as stop:
        for _ in range(2):
            expect_close(server)
            expect_line(server)
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

    server = Failing(LOCALHOST, LineHandler)
    with serving(server) as stop:
        expect_close(server)
        expect_line(server)
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

    server = Handshaking(LOCALHOST, LineHandler)
    with serving(server) as stop:
        for _ in range(3):
            expect_close(server)
        expect_line(server)
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

    server = Wrapping(LOCALHOST, Handler)
    with serving(server) as stop:
        with connect(server) as client:
            client.echo(b"hello")
        stop()


def test_service_actions_are_called_where_overridden() -> None:
    class Acting(GracefulTCPServer):
        acted = threading.Semaphore(0)

        def service_actions(self) -> None:
            self.acted.release()

    server = Acting(LOCALHOST, EchoHandler)
    with serving(server, poll_interval=0.01) as stop:
        for _ in range(5):
            assert server.acted.acquire(timeout=PATIENCE)
        stop()


def test_service_actions_of_an_instance_are_called() -> None:
    acted = threading.Semaphore(0)
    server = GracefulTCPServer(LOCALHOST, EchoHandler)
    server.service_actions = acted.release  # type: ignore[method-assign]
    with serving(server, poll_interval=0.01) as stop:
        for _ in range(5):
            assert acted.acquire(timeout=PATIENCE)
        stop()


def test_service_actions_are_called_in_the_thread_of_serve_forever() -> None:
    threads: set[threading.Thread] = set()

    class Acting(GracefulTCPServer):
        def service_actions(self) -> None:
            threads.add(threading.current_thread())
            self.shutdown()

    with Acting(LOCALHOST, EchoHandler) as server:
        server.serve_forever(0.01)
    assert threads == {threading.current_thread()}


def test_exception_of_service_actions_ends_serve_forever() -> None:
    class Failing(GracefulTCPServer):
        def service_actions(self) -> None:
            raise LookupError("no more")

    with Failing(LOCALHOST, EchoHandler) as server, pytest.raises(LookupError, match="no more"):
        server.serve_forever(0.01)


def test_exception_of_get_request_ends_serve_forever() -> None:
    """Any but `OSError`, as in `socketserver`."""

    class Failing(GracefulTCPServer):
        def get_request(self) -> Any:
            raise LookupError("no more")

    with (
        Failing(LOCALHOST, EchoHandler) as server,
        connect(server),
        pytest.raises(LookupError, match="no more"),
    ):
        server.serve_forever()


def test_no_poll_interval() -> None:
    """None: nothing is polled, as in `socketserver`."""
    server = GracefulTCPServer(LOCALHOST, LineHandler)
    with serving(server, poll_interval=None) as stop:
        expect_line(server)
        stop()


def test_handler_may_exit_its_thread(caplog: pytest.LogCaptureFixture) -> None:
    """`SystemExit` ends the thread without a word; the connection is closed."""

    class Exiting(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            sys.exit()

    server = Recording(LOCALHOST, Exiting)
    with serving(server) as stop:
        with connect(server) as client:
            client.expect_end()
        stop()
    assert not server.handled
    assert not caplog.records


def test_error_is_printed_by_handle_error(capsys: pytest.CaptureFixture[str]) -> None:
    class Failing(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            raise LookupError("as expected")

    server = GracefulTCPServer(LOCALHOST, Failing)
    with serving(server) as stop:
        with connect(server) as client:
            client.expect_end()
        stop()
    assert "LookupError: as expected" in capsys.readouterr().err


def test_new_client_in_drain_is_verified_and_not_processed() -> None:
    calls: list[str] = []

    class Server(TellingServer):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            calls.append("verify_request")
            return True

        def process_request(self, request: Any, client_address: Any) -> None:
            calls.append("process_request")
            super().process_request(request, client_address)

    server = Server(LOCALHOST, EchoHandler)
    with serving(server) as stop, connect(server) as client:
        client.echo(b"hello")
        with draining(server):
            client.expect_farewell_alone()
            with connect(server) as late:
                assert late.recv_to_end() == FAREWELL
            client.close()
        stop()
    assert calls == ["verify_request", "process_request", "verify_request"]


def test_get_request_is_called_for_clients_only() -> None:
    calls: list[str] = []

    class Counting(GracefulTCPServer):
        def get_request(self) -> Any:
            calls.append("get_request")
            return super().get_request()

    server = Counting(LOCALHOST, LineHandler)
    with serving(server) as stop:
        for _ in range(3):
            expect_line(server)
        stop()
    assert len(calls) == 3


class Wrapper:
    """An object with the methods of a request, and no socket."""

    def __init__(self, request: Any) -> None:
        self._request = request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)


def test_request_may_be_put_into_an_object_in_process_request() -> None:
    class Wrapping(TellingServer):
        def process_request(self, request: Any, client_address: Any) -> None:
            super().process_request(Wrapper(request), client_address)

    server = Wrapping(LOCALHOST, EchoHandler)
    with serving(server) as stop, connect(server) as client:
        client.echo(b"hello")
        with draining(server):
            client.expect_farewell_alone()
            client.echo(b"one moment")
            client.close()
        stop()


def test_get_request_without_a_socket_ends_serve_forever() -> None:
    class Wrapping(GracefulTCPServer):
        def get_request(self) -> Any:
            self.request, address = super().get_request()
            return Wrapper(self.request), address

    with (
        Wrapping(LOCALHOST, EchoHandler) as server,
        connect(server),
        pytest.raises(TypeError, match=r"get_request\(\) must return a socket\.socket, not "),
    ):
        server.serve_forever()
    server.request.close()


def test_exit_in_verify_request_closes_the_connection() -> None:
    class Exiting(GracefulTCPServer):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            sys.exit()

    with Exiting(LOCALHOST, EchoHandler) as server, connect(server) as client:
        with pytest.raises(SystemExit):
            server.serve_forever()
        client.expect_end()
