"""What a handler finds in ``self.server``."""

from __future__ import annotations

import socket
import socketserver
from types import SimpleNamespace
from typing import Any

import pytest

from graced.handlers.server_view import ServerView


class Stops(list[str]):
    """The stops of a service."""

    def __call__(self) -> None:
        self.append("stop")


def view(declared: Any = None, stop: Any = lambda: None) -> ServerView:
    return ServerView(SimpleNamespace(echoed=7), declared, {"word": 1}, None, stop)


@pytest.mark.parametrize("call", ["shutdown", "server_close"])
def test_server_that_is_shut_down_stops_the_service_once(call: str) -> None:
    stops = Stops()
    server = view(None, stops)
    getattr(server, call)()
    server.shutdown()
    server.server_close()
    assert stops == ["stop"]


def test_shutdown_of_the_declared_object_is_called() -> None:
    stops, own = Stops(), Stops()
    view(SimpleNamespace(shutdown=own), stops).shutdown()
    assert (stops, own) == ([], ["stop"])


def test_declared_server_that_was_never_started_is_not_waited_for() -> None:
    """Its own method would wait for a loop that nobody runs."""
    stops = Stops()
    address, handler = ("localhost", 0), socketserver.BaseRequestHandler
    with socketserver.TCPServer(address, handler, bind_and_activate=False) as declared:
        view(declared, stops).shutdown()
    assert stops == ["stop"]


def test_shutdown_that_somebody_has_written_is_called() -> None:
    class Server(socketserver.TCPServer):
        shutdown = Stops()

    stops = Stops()
    address, handler = ("localhost", 0), socketserver.BaseRequestHandler
    with Server(address, handler, bind_and_activate=False) as declared:
        view(declared, stops).shutdown()
    assert (stops, Server.shutdown) == ([], ["stop"])


@pytest.mark.parametrize("call", ["shutdown_request", "close_request"])
def test_request_is_closed(call: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        getattr(view(), call)(ours)
        assert ours.fileno() < 0
        assert theirs.recv(1) == b""


def test_request_is_ended_for_its_duplicates_too() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.dup():
        view().shutdown_request(ours)
        assert theirs.recv(1) == b""


def test_request_of_a_client_that_has_gone_is_closed() -> None:
    with socket.socket() as never_connected:
        view().shutdown_request(never_connected)
        assert never_connected.fileno() < 0


def test_exception_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    try:
        int("odd")
    except ValueError:
        view().handle_error(None, ("127.0.0.1", 50000))
    assert "the handler of 127.0.0.1:50000 failed: ValueError: invalid literal" in caplog.text


def test_attributes_of_the_server_come_last() -> None:
    server = view(SimpleNamespace(options="mine"))
    assert (server.options, server.echoed, server.state_directory) == ("mine", 7, None)
    with pytest.raises(AttributeError, match="route_map"):
        server.route_map  # noqa: B018
