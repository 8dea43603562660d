"""The echo of asyncio_echo.py as a handler of graced: ``--handler stream_echo:Echo``."""

from __future__ import annotations

from typing import Any

import graced


class Echo(graced.StreamProtocol):
    """One client."""

    farewell = b"SHUTDOWN"

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()
