"""Answers for websockets."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from strangers import gate


async def talk(websocket: Any) -> None:
    """Answer each message in two; a slow one with a long pause in between."""
    await websocket.handshake()
    websocket.start_keepalive()
    async for message in websocket:
        await websocket.send(f"{message} one")
        if message == "slow":
            await asyncio.to_thread(gate.wait)
        await websocket.send(f"{message} two")
    await websocket.close()


SERVER = SimpleNamespace(handler=talk, handler_tasks=set(), is_serving=lambda: True)
"""What a connection asks its server for."""


def farewell(connection: Any) -> bytes | None:
    """A frame that says that the server is going away, unless the end has begun."""
    if connection.protocol.state.name != "OPEN":
        return None
    connection.protocol.send_close(1001)
    return b"".join(connection.protocol.data_to_send())
