"""What an accepted TCP socket has from its listener, without a system call of ours."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from graced.log import events
from graced.sockets import binding
from graced.sockets.accepted import KeepAlive
from graced.sockets.address import Address
from graced.sockets.inherited_listeners import InheritedListeners
from support import Client

OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_OOBINLINE),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
)
SHORT = KeepAlive(idle=7.0, interval=2.4, count=3, user_timeout=1.5)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def accepted_options(
    stack: ExitStack, keepalive: KeepAlive, inherited: InheritedListeners | None = None
) -> list[int]:
    (listener,) = binding.bind([Address.parse("127.0.0.1:0")], 10, inherited, keepalive)
    stack.callback(listener.close)
    listener.sock.setblocking(True)
    stack.enter_context(Client.connect(listener.name))
    sock = stack.enter_context(listener.accept()[0])
    return [sock.getsockopt(*option) for option in OPTIONS]


def test_accepted_socket_has_the_options_of_its_listener(stack: ExitStack) -> None:
    assert accepted_options(stack, SHORT) == [1, 1, 1, 7, 2, 3, 1500]


def test_inherited_listener_gets_the_options_of_now(stack: ExitStack) -> None:
    old = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    assert accepted_options(stack, SHORT, InheritedListeners([old])) == [1, 1, 1, 7, 2, 3, 1500]


def test_no_idle_time_means_no_probes(stack: ExitStack) -> None:
    found = accepted_options(stack, KeepAlive(idle=0.0, user_timeout=0.0))
    assert found[1] == 0
    assert found[-1] == 0


def test_shortest_timeout_is_none_of_the_kernels_choice(stack: ExitStack) -> None:
    assert accepted_options(stack, KeepAlive(user_timeout=0.0001))[-1] == 1


def test_probes_turned_off_are_turned_off_for_an_inherited_listener(stack: ExitStack) -> None:
    old = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    old.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    off = KeepAlive(idle=0.0)
    assert accepted_options(stack, off, InheritedListeners([old]))[1] == 0


def test_every_range_of_the_settings_is_accepted_by_the_kernel(stack: ExitStack) -> None:
    for keepalive in (
        KeepAlive(idle=0.001, interval=1.0, count=1, user_timeout=0.0001),
        KeepAlive(idle=32767.0, interval=32767.0, count=127, user_timeout=86400.0),
    ):
        accepted_options(stack, keepalive)


# Addresses that this machine does not have.


@pytest.mark.parametrize("address", ["192.0.2.1:0", "[2001:db8::1]:0"])
def test_address_that_comes_later_is_bound(
    stack: ExitStack, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(events, "ADDRESS_ABSENT", lambda *, address: said.append(str(address)))
    (listener,) = binding.bind([Address.parse(address)], 10)
    stack.callback(listener.close)
    assert said == [address]
    assert listener.name.rpartition(":")[0] == address.rpartition(":")[0]


def test_one_absent_address_does_not_hinder_another(stack: ExitStack) -> None:
    found = binding.bind([Address.parse(text) for text in ("192.0.2.1:0", "127.0.0.1:0")], 10)
    for each in found:
        stack.callback(each.close)
    with Client.connect(found[1].name), found[1].accept()[0]:
        pass
