"""Clients that have connected before graced had the listener: they get the same options."""

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
from graced.sockets.listener import Listener
from graced.systemd import activation

WANTED = KeepAlive(idle=77.0, interval=7.0, count=3, user_timeout=55.0)
OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_OOBINLINE, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 7),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 55000),
]
KINDS = ["passed", "inherited"]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connect(stack: ExitStack, sock: socket.socket) -> None:
    theirs = stack.enter_context(socket.socket(sock.family, socket.SOCK_STREAM))
    theirs.connect(sock.getsockname())


def taken(kind: str, sock: socket.socket) -> Listener:
    """The listener that graced makes of a socket."""
    if kind == "passed":
        (listener,) = activation.adopt([sock.detach()], WANTED)
        return listener
    sock.setblocking(False)
    inherited = InheritedListeners([sock])
    (listener,) = binding.bind([Address(*sock.getsockname()[:2])], 8, inherited, WANTED)
    assert listener.sock is sock
    return listener


def accept(stack: ExitStack, listener: Listener) -> socket.socket:
    client, _ = listener.accept()
    return stack.enter_context(client)


def options(sock: socket.socket) -> list[tuple[int, int, int]]:
    return [(level, name, sock.getsockopt(level, name)) for level, name, _ in OPTIONS]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("kind", KINDS)
def test_clients_before_and_after_have_the_same_options(
    stack: ExitStack, kind: str, family: socket.AddressFamily
) -> None:
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    sock = stack.enter_context(socket.create_server((host, 0), family=family))
    connect(stack, sock)
    connect(stack, sock)
    listener = taken(kind, sock)
    stack.callback(listener.close)
    connect(stack, listener.sock)
    connect(stack, listener.sock)
    for _ in range(4):
        assert options(accept(stack, listener)) == OPTIONS


@pytest.mark.needs("/proc/sys/net/mptcp")
def test_multipath_listener_of_a_socket_unit_gives_its_clients_what_the_kernel_has(
    stack: ExitStack,
) -> None:
    """`SocketProtocol=mptcp`: Linux 6.18 has neither SO_OOBINLINE nor TCP_USER_TIMEOUT for it."""
    sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262))
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    listener = taken("passed", sock)
    stack.callback(listener.close)
    connect(stack, listener.sock)
    assert accept(stack, listener).getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_keepalive_of_a_socket_unit_gives_way_to_ours(stack: ExitStack) -> None:
    """`KeepAlive=yes`, `KeepAliveTimeSec=`: what the configuration says is what is."""
    sock = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 7200)
    connect(stack, sock)
    listener = taken("passed", sock)
    stack.callback(listener.close)
    assert options(accept(stack, listener)) == OPTIONS


def test_unix_listener_needs_none(stack: ExitStack, tmp_path: object) -> None:
    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
    sock.bind(f"{tmp_path}/socket")
    sock.listen()
    connect(stack, sock)
    listener = taken("passed", sock)
    stack.callback(listener.close)
    accept(stack, listener)


def test_container_that_forbids_it_is_one_warning(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(events, "LIMITS", lambda *, reason: said.append(reason))

    def refuse(sock: socket.socket, keepalive: KeepAlive) -> bool:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("graced.sockets.listener.set_up_again", refuse)
    sock = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    connect(stack, sock)
    connect(stack, sock)
    listener = taken("passed", sock)
    stack.callback(listener.close)
    for _ in range(2):
        accept(stack, listener)
    assert said == [
        "clients that came before the start may have no keepalive: Operation not permitted"
    ]
