"""Servers of the library, for tests: `socketserver` subclasses of graced, and their handlers."""

from __future__ import annotations

import socket
import socketserver
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from graced import GracefulTCPServer, GracefulUnixStreamServer
from graced.server import Server
from support.client import FAREWELL, Client
from support.log import PATIENCE

LOCALHOST = ("127.0.0.1", 0)


class TellingServer(GracefulTCPServer):
    """A server that declares a farewell."""

    farewell = FAREWELL


class TellingUnixServer(GracefulUnixStreamServer):
    """A server that declares a farewell."""

    farewell = FAREWELL


class LineHandler(socketserver.StreamRequestHandler):
    """Echoes a line and closes."""

    def handle(self) -> None:
        self.wfile.write(self.rfile.readline())


class EchoHandler(socketserver.BaseRequestHandler):
    """Echoes until the end of file."""

    def handle(self) -> None:
        while data := self.request.recv(4096):
            self.request.sendall(data)


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


class OwnThreads(GracefulTCPServer):
    """Starts the threads of its handlers itself, and joins them."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.threads: list[threading.Thread] = []

    def process_request(self, request: Any, client_address: Any) -> None:
        self.threads.append(threading.Thread(target=self.work, args=(request, client_address)))
        self.threads[-1].start()

    def work(self, request: Any, client_address: Any) -> None:
        """Handle a request; for a subclass to override."""
        self.process_request_thread(request, client_address)

    def server_close(self) -> None:
        super().server_close()
        for thread in self.threads:
            thread.join(PATIENCE)


def engine_of(server: GracefulTCPServer) -> Server:
    """What serves, while `serve_forever` runs."""
    engine = vars(server)["_GracefulTCPServer__engine"]
    assert isinstance(engine, Server)
    return engine


def connect(server: socketserver.TCPServer) -> Client:
    """A client of the server."""
    sock = socket.socket(server.address_family, socket.SOCK_STREAM)
    sock.connect(server.server_address)
    return Client(sock)


def expect_line(server: socketserver.TCPServer) -> None:
    """A new client has its line echoed and its connection closed by a `LineHandler`."""
    with connect(server) as client:
        client.send(b"hello\n")
        assert client.recv_to_end() == b"hello\n"


def expect_close(server: socketserver.TCPServer) -> None:
    """A new client is closed without a byte."""
    with connect(server) as client:
        assert client.recv_to_end() == b""


@contextmanager
def serving(
    server: GracefulTCPServer, *, poll_interval: float | None = 0.5
) -> Iterator[Callable[[], None]]:
    """Run `serve_forever` in a thread; yield a function that stops the server and waits."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            server.serve_forever(poll_interval)
        except BaseException as failure:
            # Shown beside whatever fails next for want of a server.
            traceback.print_exception(failure)
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


@contextmanager
def draining(server: GracefulTCPServer) -> Iterator[threading.Thread]:
    """Begin the drain; yield the thread in `shutdown`, which has returned at the end."""
    server.grace_period = 600
    begun = threading.Event()
    begin = server.draining.set

    def note() -> None:
        begin()
        begun.set()

    # Not `draining` itself, which is clear again where all clients have departed by the first look.
    server.draining.set = note  # type: ignore[method-assign]
    thread = threading.Thread(target=server.shutdown)
    thread.start()
    assert begun.wait(PATIENCE)
    yield thread
    thread.join(PATIENCE)
    assert not thread.is_alive()
