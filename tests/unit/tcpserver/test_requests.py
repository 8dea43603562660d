"""In whose hands a request is: from `get_request` to the close, whoever does it."""

from __future__ import annotations

import socket
import socketserver
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
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


class PoolServer(TellingServer):
    """Serves in threads of its own, as the documentation of socketserver allows."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.queue: SimpleQueue[Any] = SimpleQueue()
        self.threads = [threading.Thread(target=self.work) for _ in range(2)]
        for thread in self.threads:
            thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.queue.put((request, client_address))

    def work(self) -> None:
        while item := self.queue.get():
            self.process_request_thread(*item)

    def server_close(self) -> None:
        super().server_close()
        for _ in self.threads:
            self.queue.put(None)
        for thread in self.threads:
            thread.join()


def test_own_pool_serves_requests() -> None:
    server = PoolServer(LOCALHOST, LineHandler)
    with serving(server) as stop:
        clients = [connect(server) for _ in range(5)]
        for client in clients:
            client.send(b"hello\n")
            assert client.recv_to_end() == b"hello\n"
            client.close()
        stop()


def test_client_of_own_pool_is_told_and_waited_for() -> None:
    server = PoolServer(LOCALHOST, EchoHandler)
    with serving(server) as stop, connect(server) as client:
        client.echo(b"hello")
        with draining(server) as stopping:
            client.expect_farewell_alone()
            client.echo(b"one moment")
            assert stopping.is_alive()
            client.close()
        stop()


def test_request_in_queue_of_own_pool_is_told_and_closed_at_deadline() -> None:
    class Queueing(TellingServer):
        queue: SimpleQueue[Any] = SimpleQueue()

        def process_request(self, request: Any, client_address: Any) -> None:
            self.queue.put((request, client_address))

    server = Queueing(LOCALHOST, EchoHandler)
    server.grace_period = 0.5
    with serving(server) as stop, connect(server) as client:
        request, address = server.queue.get(timeout=PATIENCE)
        stop()
        assert client.recv_to_end() == FAREWELL
        # Served late, the handler finds the end.
        server.process_request_thread(request, address)
        assert request.fileno() == -1


@pytest.mark.parametrize("where", ["get_request", "process_request", "default"])
def test_timeout_of_request_is_not_lost(where: str) -> None:
    class Timing(GracefulTCPServer):
        timeouts: SimpleQueue[Any] = SimpleQueue()

        def get_request(self) -> Any:
            request, address = self.socket.accept()
            if where == "get_request":
                request.settimeout(0.25)
            return request, address

        def process_request(self, request: Any, client_address: Any) -> None:
            if where == "process_request":
                request.settimeout(0.25)
            super().process_request(request, client_address)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            server.timeouts.put(self.request.gettimeout())
            try:
                self.request.recv(1)
            except TimeoutError:
                self.request.sendall(b"timeout")

    if where == "default":
        socket.setdefaulttimeout(0.25)
    try:
        server = Timing(LOCALHOST, Handler)
        with serving(server) as stop, connect(server) as client:
            assert server.timeouts.get(timeout=PATIENCE) == 0.25
            assert client.recv_to_end() == b"timeout"
            stop()
    finally:
        socket.setdefaulttimeout(None)


def test_request_is_one_object_from_get_request_to_close() -> None:
    class Tracking(GracefulTCPServer):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.seen: list[tuple[str, Any]] = []

        def get_request(self) -> Any:
            request, address = super().get_request()
            self.seen.append(("get_request", request))
            return request, address

        def verify_request(self, request: Any, client_address: Any) -> bool:
            self.seen.append(("verify_request", request))
            return True

        def process_request(self, request: Any, client_address: Any) -> None:
            self.seen.append(("process_request", request))
            super().process_request(request, client_address)

        def close_request(self, request: Any) -> None:
            self.seen.append(("close_request", request))
            super().close_request(request)

    server = Tracking(LOCALHOST, LineHandler)
    with serving(server) as stop:
        expect_line(server)
        stop()
    names = [name for name, _ in server.seen]
    assert names == ["get_request", "verify_request", "process_request", "close_request"]
    assert len({id(request) for _, request in server.seen}) == 1


def test_process_request_may_handle_in_place() -> None:
    """As `socketserver.TCPServer` does: one client at a time."""

    class InPlace(TellingServer):
        process_request = socketserver.BaseServer.process_request

    server = InPlace(LOCALHOST, EchoHandler)
    with serving(server) as stop, connect(server) as first, connect(server) as second:
        second.send(b"patience")
        first.echo(b"hello")
        first.close()
        assert second.recv_exactly(8) == b"patience"
        with draining(server):
            second.expect_farewell_alone()
            second.echo(b"one moment")
            second.close()
        stop()


def test_handler_in_place_is_closed_at_deadline() -> None:
    class InPlace(TellingServer):
        process_request = socketserver.BaseServer.process_request

    server = InPlace(LOCALHOST, EchoHandler)
    server.grace_period = 0.3
    with serving(server) as stop, connect(server) as client:
        client.echo(b"hello")
        stop()
        assert client.recv_to_end() == FAREWELL


def test_calls_for_requests_come_from_one_thread() -> None:
    threads: set[threading.Thread] = set()
    handlers: set[threading.Thread] = set()

    class Noting(GracefulTCPServer):
        def get_request(self) -> Any:
            threads.add(threading.current_thread())
            return super().get_request()

        def verify_request(self, request: Any, client_address: Any) -> bool:
            threads.add(threading.current_thread())
            return True

        def process_request(self, request: Any, client_address: Any) -> None:
            threads.add(threading.current_thread())
            super().process_request(request, client_address)

        def finish_request(self, request: Any, client_address: Any) -> None:
            handlers.add(threading.current_thread())
            super().finish_request(request, client_address)

    server = Noting(LOCALHOST, EchoHandler)
    with serving(server) as stop:
        clients = [connect(server) for _ in range(5)]
        for client in clients:
            client.echo(b"hello")
        for client in clients:
            client.close()
        stop()
    assert len(threads) == 1
    assert len(handlers) == 5
    assert not threads & handlers


def test_exception_of_process_request_concerns_one_client() -> None:
    class Failing(Recording):
        failures: Any = iter([LookupError("no room")])

        def process_request(self, request: Any, client_address: Any) -> None:
            for failure in self.failures:
                raise failure
            super().process_request(request, client_address)

    server = Failing(LOCALHOST, LineHandler)
    with serving(server) as stop:
        expect_close(server)
        expect_line(server)
        stop()
    assert [str(error) for error in server.handled] == ["no room"]


def test_request_for_which_no_thread_starts_concerns_one_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Failing(Recording):
        def process_request(self, request: Any, client_address: Any) -> None:
            with monkeypatch.context() as patch:
                if not self.handled:
                    patch.setattr(threading.Thread, "start", refuse)
                super().process_request(request, client_address)

    def refuse(_self: object) -> None:
        raise RuntimeError("can't start new thread")

    server = Failing(LOCALHOST, LineHandler)
    with serving(server) as stop:
        expect_close(server)
        expect_line(server)
        stop()
    assert [str(error) for error in server.handled] == ["can't start new thread"]


def test_executor_of_the_program() -> None:
    """The recipe with `concurrent.futures`, which overrides nothing but `process_request`."""
    with ThreadPoolExecutor(2) as executor:

        class Executing(TellingServer):
            def process_request(self, request: Any, client_address: Any) -> None:
                executor.submit(self.process_request_thread, request, client_address)

        server = Executing(LOCALHOST, EchoHandler)
        with serving(server) as stop, connect(server) as client:
            client.echo(b"hello")
            with draining(server):
                client.expect_farewell_alone()
                client.close()
            stop()


def test_semaphore_in_process_request_limits_clients() -> None:
    class Limited(TellingServer):
        places = threading.Semaphore(1)

        def process_request(self, request: Any, client_address: Any) -> None:
            self.places.acquire()
            super().process_request(request, client_address)

        def shutdown_request(self, request: Any) -> None:
            super().shutdown_request(request)
            self.places.release()

    server = Limited(LOCALHOST, EchoHandler)
    with serving(server) as stop, connect(server) as first, connect(server) as second:
        second.send(b"patience")
        first.echo(b"hello")
        first.close()
        assert second.recv_exactly(8) == b"patience"
        second.close()
        stop()


@pytest.mark.parametrize(
    "address", [["local", 0], ("local",), (1, 2), (None, 0), None, "local", b""]
)
def test_address_may_be_of_any_kind(address: Any) -> None:
    """As for Unix sockets, for which `http.server` needs a pair."""
    seen: SimpleQueue[Any] = SimpleQueue()

    class Server(GracefulTCPServer):
        def get_request(self) -> Any:
            request, _ = super().get_request()
            return request, address

    class Handler(LineHandler):
        def handle(self) -> None:
            seen.put(self.client_address)
            super().handle()

    server = Server(LOCALHOST, Handler)
    with serving(server) as stop:
        expect_line(server)
        assert seen.get(timeout=PATIENCE) == address
        stop()


def test_child_of_forking_server_is_waited_for_and_closed_at_deadline() -> None:
    class Forking(socketserver.ForkingMixIn, TellingServer):
        pass

    server = Forking(LOCALHOST, EchoHandler)
    with warnings.catch_warnings():
        # Python 3.12 warns of each fork(2) in a process with threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        with serving(server) as stop, connect(server) as client, connect(server) as other:
            client.echo(b"hello")
            other.echo(b"hello")
            other.close()
            server.grace_period = 1.0
            stop()
            assert client.recv_to_end() in {b"", FAREWELL}
