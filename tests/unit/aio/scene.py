"""A pool of asyncio handlers without a server, and clients of it."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

from graced.aio.event_loop import new_loop
from graced.aio.pool import LoopPool
from graced.handlers.asynchronous import PROTOCOL
from graced.handlers.registry import Handler
from graced.loop.client import Client as ServedClient
from graced.loop.phase import GONE
from support import PATIENCE, Client


class Scene:
    def __init__(
        self,
        make: Any,
        kind: str = PROTOCOL,
        *,
        farewell: bytes | None = None,
        gap: float = 0.05,
        on_restored: Callable[[], None] = lambda: None,
        deadline: float = math.inf,
    ) -> None:
        handler = Handler(
            name="mine", factory=make, make=make, asynchronous=kind, words=None, movable=True
        )
        self.closed: SimpleQueue[str] = SimpleQueue()
        self.pool = LoopPool(
            None,
            handler=handler,
            make_loop=partial(new_loop, fast=False),
            deadline=lambda: deadline,
            farewell=farewell,
            gap=gap,
            stall_timeout=60.0,
            on_close=lambda _client, reason: self.closed.put(reason),
            on_restored=on_restored,
            movable=True,
        )
        self._clients: list[Client] = []
        self._listener = socket.create_server(("127.0.0.1", 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        for client in self._clients:
            client.close()
        self._listener.close()
        self.pool.close_all()
        self.pool.join(PATIENCE)

    def connect(self, saved: bytes | None = None, *, unsent: bytes = b"") -> Client:
        """A client that the pool serves."""
        host, port = self._listener.getsockname()
        client = Client.connect(f"{host}:{port}")
        self._clients.append(client)
        sock, address = self._listener.accept()
        sock.setblocking(False)
        served = ServedClient(sock, address[0], address[1], GONE, 0.0)
        served.unsent, served.saved = unsent, saved
        self.pool.start(served)
        return client

    def settle(self) -> None:
        """Return when the loop has done what it was asked for."""
        for _ in range(10):
            self.pool.event_loop.call(lambda: None)

    def end_executor(self) -> None:
        """Wait for the threads of the loop's executor, which asyncio leaves alone."""
        loop = self.pool.event_loop.loop
        asyncio.run_coroutine_threadsafe(loop.shutdown_default_executor(), loop).result(PATIENCE)
