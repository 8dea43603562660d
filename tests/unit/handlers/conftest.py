"""Fixtures of the tests of handlers: pairs and scenes, closed after each test."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from graced.handlers.handler_socket import HandlerSocket
from handlers.pair import GAP, Make, Pair, tcp_pair
from handlers.scene import Scene, Stage, echo
from support import FAREWELL, PATIENCE, Client


@pytest.fixture(params=[tcp_pair, socket.socketpair], ids=["tcp", "unix"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    pairs: list[Pair] = []

    def make(farewell: bytes | None = FAREWELL, gap: float = GAP, *, told: bool = False) -> Pair:
        ours, theirs = request.param()
        pairs.append(Pair(HandlerSocket(ours, farewell, gap, told=told), Client(theirs)))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.handler.close()
        pair.client.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    scenes: list[Scene] = []

    def stage(
        run: Callable[[Any, Any], None] = echo,
        max_threads: int = 10,
        gap: float = 0.0,
        movable: bool = False,
        greet: Any = False,
    ) -> Scene:
        scenes.append(Scene(run, max_threads=max_threads, gap=gap, movable=movable, greet=greet))
        return scenes[-1]

    yield stage
    for scene in scenes:
        for other in scene.others:
            other.close()
        scene.pool.close_all()
        assert scene.pool.join(PATIENCE) == 0
