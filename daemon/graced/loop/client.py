"""One client: a connection from accept to close, as small as it can be.

Ten thousand of them should fit a device, so there is a slot for each thing that has to be known
and nothing else; all of it is plain data.
"""

from __future__ import annotations

import socket

from graced.loop.event_source import EventSource
from graced.loop.phase import NOT_TOLD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Client(EventSource):
    """A connection.  Owned by one I/O thread, or by the thread of its handler."""

    __slots__ = (
        "address",
        "counted",
        "echoed",
        "host",
        "last",
        "port",
        "saved",
        "since",
        "sock",
        "told",
        "unsent",
    )

    def __init__(self, sock: socket.socket, host: str, port: int, phase: int, now: float) -> None:
        self.phase = phase
        self.due = 0.0
        self.timer = 0.0
        self.sock = sock
        self.host = host
        """A number, or ``unix:PATH`` of the socket it came in by."""
        self.port = port
        """Of the client; of a Unix client, which has none, its number in the order of coming."""
        self.counted = True
        """Whether it has been admitted, and must be taken off the count."""
        self.told = NOT_TOLD
        self.since = self.last = now
        self.echoed = 0
        self.unsent = b""
        """What was read and could not be sent yet."""
        self.saved: bytes | None = None
        """What its handler has saved, in another process."""
        self.address: Any = None
        """As accept(2) gave it, where a handler will ask for it."""

    def __str__(self) -> str:
        if self.host.startswith("unix:"):
            return f"{self.host}#{self.port}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
