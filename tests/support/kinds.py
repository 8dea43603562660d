"""A handler of the kind that $KIND names: as one that is written anew between two starts."""

from __future__ import annotations

import asyncio
import os
import socketserver
from typing import Any

from graced import StreamProtocol

HERE = "support.kinds"
CHUNK = bytes(range(256)) * 1024
LAST_WORDS = b"that is all"
_BASES: Any = {
    "asyncio": asyncio.Protocol,
    "blocking": socketserver.BaseRequestHandler,
    "stream": StreamProtocol,
}


class Counter(_BASES[os.environ.get("KIND", "stream")]):  # type: ignore[misc]
    """Answers each message with its number, and ``fill`` with more than its client takes."""

    number = 0
    transport: Any = None
    is_paused = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.number += 1
        if data == b"fill":
            self.fill()
        else:
            self.transport.write(b"%d" % self.number)

    def fill(self) -> None:
        chunks = 0
        while self.transport.get_write_buffer_size() < len(CHUNK):
            self.transport.write(CHUNK)
            chunks += 1
        self.transport.write(LAST_WORDS)
        print(f"chunks: {chunks}", flush=True)

    def pause_writing(self) -> None:
        print(f"paused, knowing {self.number}", flush=True)
        self.is_paused = True

    def resume_writing(self) -> None:
        assert self.is_paused
        self.is_paused = False

    def handle(self) -> None:
        while self.request.recv(1024):
            self.number += 1
            self.request.sendall(b"%d" % self.number)

    def save(self) -> bytes:
        if self.transport:
            print(f"unsent: {self.transport.get_write_buffer_size()}", flush=True)
        return b"%d" % self.number

    def restore(self, state: bytes) -> None:
        self.number = int(state)


class Other(Counter):
    """Another one, by its name."""
