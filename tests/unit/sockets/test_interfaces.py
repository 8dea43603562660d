"""Link-local addresses, which belong to an interface that comes, goes, and gets another number."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any

import pytest

from graced.sockets import binding
from graced.sockets.accepted import KeepAlive
from graced.sockets.address import Address, format_listener
from graced.sockets.inherited_listeners import InheritedListeners
from graced.sockets.listener import Listener
from graced.sockets.places import Places, place

LOOPBACK = socket.if_nametoindex("lo")


class AtInterface(Listener):
    """A listener at the address of an interface, which need not be there."""

    def __init__(self, port: int, number: int) -> None:
        self.passed = False
        self.sock: Any = self
        self._name = ("fe80::1", port, 0, number)

    def getsockname(self) -> tuple[str, int, int, int]:
        return self._name


def test_listener_of_an_interface_that_has_gone_is_not_used_again() -> None:
    """Nobody reaches it, and the interface comes back with another number."""
    with socket.create_server(("127.0.0.1", 0)) as old:
        port = old.getsockname()[1]
        address = Address.parse(f"[fe80::1%nothing]:{port}")
        unresolved: list[Address] = []
        inherited = InheritedListeners([old])
        assert binding.bind([address], 10, inherited, unresolved=unresolved) == []
        assert unresolved == [address]
        assert inherited.sockets == [old]


def test_name_server_is_not_asked_for_an_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    ask = socket.getaddrinfo

    def getaddrinfo(*arguments: Any, **more: Any) -> Any:
        asked.append(more["flags"])
        return ask(*arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    address = Address.parse("[fe80::1%nothing]:9")
    assert binding.bind([address], 10, unresolved=[]) == []
    assert asked == [socket.AI_NUMERICHOST]


def test_address_of_one_interface_is_not_that_of_another() -> None:
    with ExitStack() as stack:
        (first,) = binding.bind_late(Address.parse("[fe80::1%lo]:0"), 10, KeepAlive(), Places())
        stack.callback(first.close)
        port = first.sock.getsockname()[1]
        assert place(first.sock.getsockname()) == f"[fe80::1]:{port}%{LOOPBACK}"
        address = Address.parse(f"[fe80::1%lo]:{port}")
        places = Places([address], [first])
        assert binding.bind_late(address, 10, KeepAlive(), places) == []
        first.close()
        places = Places([address], [AtInterface(port, LOOPBACK + 1)])
        (second,) = binding.bind_late(address, 10, KeepAlive(), places)
        stack.callback(second.close)


def test_listener_is_named_with_its_interface() -> None:
    """As in the configuration: the same address on two interfaces is two listeners."""
    with ExitStack() as stack:
        (found,) = binding.bind([Address.parse("[fe80::1%lo]:0")], 10)
        stack.callback(found.close)
        host, port, flow, scope = found.sock.getsockname()
        assert found.name == f"[fe80::1%lo]:{port}"
        assert scope == LOOPBACK
    # It has gone meanwhile.
    assert format_listener((host, port, flow, 999999)) == f"[fe80::1%999999]:{port}"


def test_inherited_listener_of_an_interface_is_used_beside_a_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name gets what is left at the port."""
    with ExitStack() as stack:
        (old,) = binding.bind([Address.parse("[fe80::1%lo]:0")], 10)
        stack.callback(old.close)
        port = old.sock.getsockname()[1]
        other = stack.enter_context(socket.create_server(("127.0.0.1", port)))
        addresses = [Address.parse(f"name.test:{port}"), Address.parse(f"[fe80::1%lo]:{port}")]
        unresolved: list[Address] = []
        inherited = InheritedListeners([old.sock, other])
        found = binding.bind(addresses, 10, inherited, unresolved=unresolved)
        assert [each.sock for each in found] == [other, old.sock]
        assert unresolved == [addresses[0]]
