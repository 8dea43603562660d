"""Handlers of each kind that answer with the address of their client, also over a restart."""

from __future__ import annotations

import asyncio
import socketserver
from typing import Any

from graced import StreamProtocol


class Blocking(socketserver.BaseRequestHandler):
    farewell = b"SHUTDOWN"

    def handle(self) -> None:
        while self.request.recv(1024):
            self.request.sendall(named(self.client_address))

    def save(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        assert state == b""


class BlockingAtOnce(Blocking):
    """Has a handler before the first byte."""

    greets = True


class _Naming:
    farewell = b"SHUTDOWN"
    transport: Any

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, _data: bytes) -> None:
        self.transport.write(named(self.transport.get_extra_info("peername")))

    def save(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        assert state == b""


class Stream(_Naming, StreamProtocol):
    pass


class Asyncio(_Naming, asyncio.Protocol):
    pass


def named(peer: Any) -> bytes:
    return repr(peer).encode()
