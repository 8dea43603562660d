"""A listener of the last process with other options than a new one would have."""

from __future__ import annotations

import socket
import struct
from contextlib import ExitStack
from typing import Any

import pytest

from graced.log import events
from graced.sockets import binding, inherited_listeners
from graced.sockets.address import Address
from graced.sockets.inherited_listeners import InheritedListeners
from support import Client

SO_DETACH_FILTER = 27
SO_LOCK_FILTER = 44
IPV6_MINHOPCOUNT = 73
RESET = struct.pack("ii", 1, 0)
"""A close resets the connection, socket(7)."""


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    reasons: list[str] = []
    monkeypatch.setattr(
        events, "LISTENER_NOT_INHERITED", lambda *, reason, **_: reasons.append(reason)
    )
    return reasons


@pytest.mark.parametrize(
    ("level", "option", "value", "reason"),
    [
        (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0, "it takes IPv4 clients as well"),
        (
            *(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1),
            "another process may share its address (SO_REUSEPORT)",
        ),
        (socket.SOL_SOCKET, 62, 1, "it is bound to an interface"),
        (
            *(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 10),
            "its option TCP_DEFER_ACCEPT is another",
        ),
        (socket.SOL_SOCKET, socket.SO_LINGER, RESET, "its option SO_LINGER is another"),
        (socket.SOL_SOCKET, SO_LOCK_FILTER, 1, "its option SO_LOCK_FILTER is another"),
        (socket.IPPROTO_IPV6, IPV6_MINHOPCOUNT, 255, "its option IPV6_MINHOPCOUNT is another"),
    ],
    ids=[
        "IPV6_V6ONLY",
        "SO_REUSEPORT",
        "SO_BINDTOIFINDEX",
        "TCP_DEFER_ACCEPT",
        "SO_LINGER",
        "SO_LOCK_FILTER",
        "IPV6_MINHOPCOUNT",
    ],
)
def test_listener_with_other_options_is_bound_afresh(
    said: list[str], level: int, option: int, value: int | bytes, reason: str
) -> None:
    """It was made by another version, or by a handler that has found its descriptor."""
    with ExitStack() as stack:
        old = stack.enter_context(socket.socket(socket.AF_INET6))
        old.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        old.setsockopt(level, option, value)
        old.bind(("::", 0))
        old.listen()
        old.setblocking(False)
        address = Address("::", old.getsockname()[1])
        (found,) = binding.bind([address], 10, InheritedListeners([old]))
        stack.callback(found.close)
        assert found.sock is not old
        with Client.connect(f"[::1]:{address.port}"), found.accept()[0]:
            pass
    assert said == [reason]


def test_listener_that_is_bound_as_all_sockets_are_is_used_again(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control group binds each socket to the interface of a VRF, ip-vrf(8)."""
    monkeypatch.setattr(inherited_listeners, "bound_interface", lambda _: 5)
    with socket.socket() as old:
        old.bind(("127.0.0.1", 0))
        old.listen()
        old.setblocking(False)
        address = Address("127.0.0.1", old.getsockname()[1])
        (found,) = binding.bind([address], 10, InheritedListeners([old]))
        assert found.sock is old
    assert said == []


class Filtered(socket.socket):
    """A socket with a filter, which can be taken off: only root may attach one everywhere."""

    filtered = True

    def setsockopt(self, level: int, option: int, *value: Any) -> None:
        if (level, option) == (socket.SOL_SOCKET, SO_DETACH_FILTER):
            self.filtered = False
        else:
            super().setsockopt(level, option, *value)


def test_listener_with_a_filter_is_bound_afresh(said: list[str]) -> None:
    with Filtered() as old, ExitStack() as stack:
        old.bind(("127.0.0.1", 0))
        old.listen()
        old.setblocking(False)
        address = Address("127.0.0.1", old.getsockname()[1])
        (found,) = binding.bind([address], 10, InheritedListeners([old]))
        stack.callback(found.close)
        assert not old.filtered, "its queue could not be accepted"
        with Client.connect(found.name), found.accept()[0]:
            pass
    assert said == ["it has a filter"]
