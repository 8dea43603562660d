"""An echo server as one would write it with asyncio: asyncio_echo.py PORT [SITE-PACKAGES].

With SITE-PACKAGES the event loop is the uvloop found there.  On SIGTERM it stops accepting, says
SHUTDOWN to everybody, and ends when all have left.

`Echo` is also a handler of graced: ``--handler asyncio_echo:Echo``.
"""

from __future__ import annotations

import asyncio
import signal
import sys


class Echo(asyncio.Protocol):
    """One client."""

    farewell = b"SHUTDOWN"
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


class Known(Echo):
    """One client of a server that has to know its clients."""

    def __init__(self, clients: set[Known], left: asyncio.Event) -> None:
        self.clients = clients
        self.left = left

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.clients.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.clients.discard(self)
        if not self.clients:
            self.left.set()


async def serve(port: int) -> None:
    """Echo until SIGTERM."""
    clients: set[Known] = set()
    left = asyncio.Event()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(lambda: Known(clients, left), "127.0.0.1", port)
    await stop.wait()
    server.close()
    left.clear()
    for client in clients:
        client.transport.write(Echo.farewell)
    if clients:
        await left.wait()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.path.append(sys.argv[2])
        import uvloop  # type: ignore[import-not-found, unused-ignore]

        uvloop.install()
    asyncio.run(serve(int(sys.argv[1])))
