"""Interfaces of an I/O thread: expectations of a listener, of handlers and of the mirror.

Only type checkers read this module, so `typing` is not imported by a running server.
"""

from __future__ import annotations

from socket import socket
from typing import Any, Protocol

from graced.loop.client import Client


class Listener(Protocol):
    """A listening socket (see `graced.sockets.listener.Listener`)."""

    name: str
    """The address, in the notation of the log."""
    passed: bool
    """Whether the service manager owns the socket: the drain then leaves the socket alone."""
    sock: socket
    fallible: bool
    """Whether any `OSError` of `accept` concerns a single client."""

    def accept(self) -> tuple[socket, Any]:
        """Accept a client; return its socket and address.  Raises `OSError`."""

    def refuse_connections(self) -> float:
        """Let no new client connect; clients that are queued can still be accepted.

        Return the seconds in which handshakes that have begun may add to the queue.
        """


class Handlers(Protocol):
    """Blocking handlers, each with a client (see `graced.handlers.pool.HandlerPool`).

    The I/O thread calls; no method blocks.
    """

    greet: bool
    """Whether handlers speak first: a handler then starts when its client is accepted, otherwise
    when the first byte has come."""
    movable: bool
    """Whether a handler can save its state and go on in another process."""

    def reserve(self) -> bool:
        """Reserve a thread for the next `start`; return False where all are in use.

        `IOThread.start_waiting` is called when one is free again.
        """

    def start(self, client: Client) -> None:
        """Start a handler for the client, which belongs to the handler from now on."""

    def say_goodbyes(self) -> float:
        """Say goodbye to the clients that are at rest now.

        Return the seconds after which another may be at rest.
        """

    def close_idle(self, timeout: float) -> float:
        """Close the clients that have been silent for `timeout` seconds.

        Return the seconds of the longest silence among the others.
        """


class Mirror(Protocol):
    """Copies of clients' sockets, for the next process (see `graced.handover.mirror.Mirror`)."""

    def add(self, client: Client) -> None:
        """Keep a copy of the client's socket."""

    def discard(self, client: Client) -> None:
        """Drop the copy, before the client's socket is closed."""
