"""Inherited clients that the loop of this configuration does not serve."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest

from graced.app import loop_choice
from graced.loop.client import Client
from graced.loop.phase import GONE


@pytest.fixture
def clients() -> Any:
    made = [
        Client(socket.socket(family), host, 7, GONE, 0.0)
        for family, host in ((socket.AF_INET, "192.0.2.7"), (socket.AF_UNIX, "unix:/run/it"))
    ]
    yield made
    for client in made:
        client.sock.close()


@pytest.mark.parametrize(
    ("event_loop", "listener", "is_left_out"),
    [
        ("uvloop", socket.AF_INET, True),
        # A socket unit has passed it, and the loop is asyncio's.
        ("uvloop", socket.AF_UNIX, False),
        ("asyncio", socket.AF_INET, False),
    ],
)
def test_unix_client_is_turned_away_where_the_loop_is_uvloop(
    event_loop: str, listener: int, is_left_out: bool, clients: list[Client]
) -> None:
    settings: Any = SimpleNamespace(event_loop=event_loop)
    handler: Any = SimpleNamespace(asynchronous="protocol")
    listeners: Any = [SimpleNamespace(sock=SimpleNamespace(family=listener))]
    reason = loop_choice.leave_out(settings, handler, listeners, clients)
    assert bool(reason) is is_left_out
    assert [client.counted for client in clients] == [True, not is_left_out]
