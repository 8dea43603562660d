"""What may be the handler class of a server, and what is refused at once."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any
from xmlrpc.server import SimpleXMLRPCServer

import pytest

from graced import GracefulTCPServer
from support.library import LOCALHOST, EchoHandler, connect, serving


class Coroutine(socketserver.BaseRequestHandler):
    async def handle(self) -> None:  # type: ignore[override]
        pass


class CoroutineSetup(EchoHandler):
    async def setup(self) -> None:  # type: ignore[override]
        pass


class AsyncGenerator(socketserver.BaseRequestHandler):
    async def handle(self) -> AsyncIterator[bytes]:  # type: ignore[override]
        yield b""


class Generator(socketserver.BaseRequestHandler):
    def handle(self) -> Iterator[bytes]:  # type: ignore[override]
        yield b""


class Datagrams(socketserver.DatagramRequestHandler):
    pass


async def coroutine(_request: Any, _address: Any, _server: Any) -> None:
    pass


class CoroutineCall:
    async def __call__(self, _request: Any, _address: Any, _server: Any) -> None:
        pass


UNSUITABLE = [
    (Coroutine, r"handler 'Coroutine' has an async handle\(\), which nobody would run"),
    (CoroutineSetup, r"handler 'CoroutineSetup' has an async setup\(\)"),
    (AsyncGenerator, r"has an async handle\(\)"),
    (Generator, r"has a generator handle\(\)"),
    (Datagrams, "is a DatagramRequestHandler, and this server has streams"),
    (coroutine, "handler 'coroutine' is an async function"),
    (CoroutineCall(), r"has an async __call__\(\)"),
    (partial(Coroutine), r"has an async handle\(\)"),
    (partial(coroutine), "is an async function"),
    ("module:Class", "handler 'module:Class' cannot be called"),
]


@pytest.mark.parametrize(("handler", "reason"), UNSUITABLE)
def test_handler_that_could_not_serve_is_refused_at_construction(handler: Any, reason: str) -> None:
    with pytest.raises(TypeError, match=reason):
        GracefulTCPServer(LOCALHOST, handler)


def test_handler_that_could_not_serve_is_refused_later_too() -> None:
    with (
        GracefulTCPServer(LOCALHOST, EchoHandler) as server,
        pytest.raises(TypeError, match="async"),
    ):
        server.RequestHandlerClass = Coroutine


def function(request: Any, _address: Any, _server: Any) -> None:
    request.sendall(request.recv(100))


class WithPrefix(socketserver.BaseRequestHandler):
    def __init__(self, *args: Any, prefix: bytes = b"") -> None:
        self.prefix = prefix
        super().__init__(*args)

    def handle(self) -> None:
        self.request.sendall(self.prefix + self.request.recv(100))


@pytest.mark.parametrize(
    ("handler", "answer"),
    [
        (function, b"hello"),
        (lambda *args: WithPrefix(*args, prefix=b"> "), b"> hello"),
        (partial(WithPrefix, prefix=b"> "), b"> hello"),
        (WithPrefix, b"hello"),
    ],
    ids=["function", "factory", "partial", "class"],
)
def test_handler_may_be_any_callable(handler: Any, answer: bytes) -> None:
    server = GracefulTCPServer(LOCALHOST, handler)
    with serving(server) as stop:
        with connect(server) as client:
            client.send(b"hello")
            assert client.recv_to_end() == answer
        stop()


def test_handler_finds_the_attributes_of_its_server() -> None:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            server: Any = self.server
            self.request.sendall(server.greeting % server.server_address[1])

    class Greeting(GracefulTCPServer):
        greeting = b"welcome to port %d"

    server = Greeting(LOCALHOST, Handler)
    with serving(server) as stop:
        with connect(server) as client:
            assert client.recv_to_end() == b"welcome to port %d" % server.server_address[1]
        stop()


def test_datagram_server_is_refused() -> None:
    class Datagram(socketserver.UDPServer, GracefulTCPServer):
        pass

    with pytest.raises(TypeError, match="Datagram: graced serves streams"):
        Datagram(LOCALHOST, EchoHandler)


def test_server_may_pass_by_the_constructor() -> None:
    """As `xmlrpc.server` does, which calls that of `socketserver.TCPServer`."""

    class Server(SimpleXMLRPCServer, GracefulTCPServer):
        pass

    server = Server(LOCALHOST, logRequests=False)
    server.register_function(lambda: threading.current_thread().name, "name")
    with serving(server) as stop:
        from xmlrpc.client import ServerProxy

        with ServerProxy(f"http://127.0.0.1:{server.server_address[1]}") as proxy:
            assert str(proxy.name()).startswith("handler ")
        stop()


def test_names_of_the_program_are_its_own() -> None:
    """A subclass may use any name that is not documented."""
    documented = {name for name in vars(GracefulTCPServer) if not name.startswith("_")}
    assert documented - set(dir(socketserver.ThreadingTCPServer)) == {
        *("farewell", "farewell_gap", "grace_period", "max_handler_threads"),
        "serve_until_stopped",
    }
    with GracefulTCPServer(LOCALHOST, EchoHandler) as server:
        ours = {
            name
            for name in [*vars(server), *dir(type(server))]
            if not hasattr(socketserver.ThreadingTCPServer, name)
            and not name.startswith(("_GracefulTCPServer__", "_CheckedServer__", "_BaseServer__"))
        }
    instance = {"RequestHandlerClass", "deadline", "draining", "server_address", "socket"}
    assert ours - documented <= instance | {"__annotations__"}


def test_threading_mix_in_is_in_already() -> None:
    with pytest.raises(TypeError, match="method resolution"):
        type("Server", (socketserver.ThreadingMixIn, GracefulTCPServer), {})

    class Server(GracefulTCPServer, socketserver.ThreadingMixIn):
        pass

    assert issubclass(Server, socketserver.ThreadingTCPServer)
