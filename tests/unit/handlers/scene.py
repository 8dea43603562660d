"""A pool of handler threads with clients, without the rest of the server."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from queue import Queue
from typing import Any

from graced.handlers.pool import HandlerPool
from graced.loop.client import Client
from graced.loop.phase import AWAITING_FIRST_BYTE, NOT_TOLD
from support import FAREWELL, PATIENCE
from support import Client as Other

Stage = Callable[..., "Scene"]


class Scene:
    """A pool, its clients, and the reasons for which clients were closed."""

    def __init__(
        self,
        run: Callable[[Any, Any], None],
        *,
        max_threads: int,
        gap: float,
        movable: bool,
        greet: Any,
    ) -> None:
        self.closed: Queue[tuple[Client, str]] = Queue()
        self.others: list[Other] = []
        self.pool = HandlerPool(
            run,
            greet=greet,
            max_threads=max_threads,
            movable=movable,
            farewell=FAREWELL,
            gap=gap,
            stall_timeout=0.0,
            on_close=lambda client, reason: self.closed.put((client, reason)),
        )

    def connect(self, *, told: int = NOT_TOLD) -> Other:
        """A new client, for which the pool has started a handler."""
        ours, theirs = socket.socketpair()
        client = Client(ours, "host", len(self.others), AWAITING_FIRST_BYTE, 0.0)
        client.told = told
        self.others.append(Other(theirs))
        self.pool.start(client)
        return self.others[-1]

    def next_reason(self) -> str:
        """The reason for which the next client is closed."""
        return self.closed.get(timeout=PATIENCE)[1]


def connect_by_tcp(scene: Scene, *, reset: bool = False) -> Other:
    """A new client.  `reset`: the client has reset the connection before its handler starts."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        other = Other.connect(f"127.0.0.1:{server.getsockname()[1]}")
        ours, _ = server.accept()
    scene.others.append(other)
    if reset:
        other.reset()
        poll = select.poll()
        poll.register(ours, 0)
        assert poll.poll(1000 * PATIENCE)
    scene.pool.start(Client(ours, "host", len(scene.others), AWAITING_FIRST_BYTE, 0.0))
    return other


def echo(request: Any, _address: Any) -> None:
    while data := request.recv(100):
        request.sendall(data)
