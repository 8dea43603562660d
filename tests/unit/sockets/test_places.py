"""Which listeners are at a place that the configuration asks for no more."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from graced.sockets.address import Address
from graced.sockets.listener import Listener
from graced.sockets.places import Places, why_deserted
from support import reserved_port

OLD, NEW = (socket.AF_INET, ("127.0.0.2", 0)), (socket.AF_INET, ("127.0.0.3", 0))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def port(stack: ExitStack) -> int:
    return stack.enter_context(reserved_port())


@pytest.fixture
def old(stack: ExitStack, port: int) -> Listener:
    """The listener of the name, as it was found at the start."""
    return Listener(stack.enter_context(socket.create_server(("127.0.0.2", port))))


def test_listener_of_a_name_that_has_moved_is_deserted(old: Listener, port: int) -> None:
    name = Address.parse(f"name.test:{port}")
    places = Places([name], [old])
    assert places.deserted([old]) == []
    places.note(name, [OLD, NEW])
    assert places.deserted([old]) == []
    places.note(name, [NEW])
    assert places.deserted([old]) == [old]
    assert why_deserted(old) == "no name of the configuration has this address any more"
    assert places.missing(name, [OLD, NEW]) == [NEW]
    places.leave(old)
    assert places.missing(name, [OLD, NEW]) == [OLD, NEW]


def test_listener_stays_until_each_name_of_its_port_is_answered(old: Listener, port: int) -> None:
    first, second = (Address.parse(f"{name}.test:{port}") for name in ("first", "second"))
    places = Places([first, second], [old])
    places.note(first, [NEW])
    assert places.deserted([old]) == []
    places.note(second, [OLD])
    assert places.deserted([old]) == []
    places.note(second, [NEW])
    assert places.deserted([old]) == [old]


@pytest.mark.parametrize("fixed", ["127.0.0.2", "127.2", "*"])
def test_number_of_the_configuration_is_not_deserted(
    stack: ExitStack, port: int, fixed: str
) -> None:
    host = "0.0.0.0" if fixed == "*" else "127.0.0.2"
    listener = Listener(stack.enter_context(socket.create_server((host, port))))
    name = Address.parse(f"name.test:{port}")
    places = Places([name, Address.parse(f"{fixed}:{port}")], [listener])
    places.note(name, [NEW])
    assert places.deserted([listener]) == []


def test_listener_at_another_port_is_not_deserted(stack: ExitStack, old: Listener) -> None:
    with reserved_port() as another:
        name = Address.parse(f"name.test:{another}")
        places = Places([name], [old])
        places.note(name, [NEW])
        assert places.deserted([old]) == []


def test_listener_of_the_service_manager_is_not_deserted(stack: ExitStack, port: int) -> None:
    sock = stack.enter_context(socket.create_server(("127.0.0.2", port)))
    passed = Listener(sock, passed=True)
    name = Address.parse(f"name.test:{port}")
    places = Places([name], [passed])
    places.note(name, [NEW])
    assert places.deserted([passed]) == []


def test_number_that_is_refused_is_no_reason_to_leave(old: Listener, port: int) -> None:
    """Nobody knows where it is."""
    name, refused = Address.parse(f"name.test:{port}"), Address.parse(f"224.0.0.1:{port}")
    places = Places([name, refused], [old])
    places.note(name, [NEW])
    assert places.deserted([old]) == []


def test_path_that_was_removed_is_deserted_once_another_socket_has_it(
    stack: ExitStack, tmp_path: Path
) -> None:
    def listen() -> Listener:
        sock = stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.bind(str(tmp_path / "socket"))
        sock.listen()
        return Listener(sock)

    first = listen()
    places = Places([Address.parse(f"unix:{tmp_path}/socket")], [first])
    (tmp_path / "socket").unlink()
    assert places.deserted([first]) == []
    second = listen()
    assert places.deserted([first, second]) == [first]
    assert why_deserted(first) == "its path leads elsewhere"
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert Places.last_at(f"{link}/socket", [first, second]) is second
    assert Places.last_at(f"{tmp_path}/other", [first, second]) is None
