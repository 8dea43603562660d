"""A client: one accepted connection, from accept to close, in as little memory as possible.

A device may have ten thousand clients.  So a client has a slot for every value that is needed, no
other attribute, and no method but its name.
"""

from __future__ import annotations

import socket

from graced.loop.event_source import EventSource
from graced.loop.phase import INPUT_ENDED, NOT_TOLD
from graced.sockets.accepted import is_tls
from graced.sockets.address import format_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ARRIVED = "proxy:"
"""The beginning of the host of a connection that is handed over without all of its PROXY header."""
TURNED_AWAY = "turned away"
"""The reason in the log for a client that was not served."""


class Client(EventSource):
    """A connection.  For the I/O thread or the handler's thread that owns the client."""

    __slots__ = (
        "counted",
        "echoed",
        "host",
        "last",
        "port",
        "saved",
        "since",
        "sock",
        "told",
        "unheard",
        "unsent",
    )

    header = 0
    """Bytes of the header of the PROXY protocol that came before the client's own; 0: none.

    No attribute of each client, which would cost 16 bytes: see `ProxiedClient`."""

    def __init__(self, sock: socket.socket, host: str, port: int, phase: int, now: float) -> None:
        # Not by super(): a call more for each accepted client.
        self.phase = phase
        self.due = 0.0
        self.timer = 0.0
        self.sock = sock
        self.host = host
        """The numeric address of the client; or ``unix:PATH`` of the listener."""
        self.port = port
        """The port of the client; of a Unix client, which has none, a number of our own."""
        self.counted = True
        """Whether `Admission` counts the client."""
        self.told = NOT_TOLD
        """How far the farewell has come: NOT_TOLD, TOLD, ANSWERED, INPUT_ENDED."""
        self.since = self.last = now
        """Monotonic times of the accept and of the last message."""
        self.echoed = 0
        """Bytes sent back to the client."""
        self.unheard = False
        """Whether the client is not logged before its first byte, see `ConnectionLog`."""
        self.unsent = b""
        """Bytes for the client that the kernel has not taken yet."""
        self.saved: bytes | None = None
        """The state that the client's handler has saved in another process."""

    @property
    def peer(self) -> Any:
        """The address in the form of getpeername(2), also where a proxy has told it."""
        if self.host.startswith("unix:"):
            return ""
        return (self.host, self.port, 0, 0) if ":" in self.host else (self.host, self.port)

    @property
    def has_tls(self) -> bool:
        """Whether the connection is in TLS, or will be: its keys are in this process alone."""
        return is_tls(self.sock)

    @property
    def parting(self) -> str:
        """The reason in the log for a lingering close."""
        return "at rest" if self.told == INPUT_ENDED else TURNED_AWAY

    def __str__(self) -> str:
        if self.host.startswith("unix:"):
            return f"{self.host}#{self.port}"
        return format_address((self.host, self.port))


class ProxiedClient(Client):
    """A client behind a proxy."""

    __slots__ = ("header",)


def behind_proxy(client: Client, header: int) -> Client:
    """The client, with a header of so many bytes."""
    if not header:
        return client
    proxied = ProxiedClient(client.sock, client.host, client.port, client.phase, client.since)
    proxied.header = header
    proxied.last, proxied.echoed, proxied.unheard = client.last, client.echoed, client.unheard
    proxied.unsent, proxied.saved = client.unsent, client.saved
    return proxied
