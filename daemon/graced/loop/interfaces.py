"""Interfaces of an I/O thread: expectations of a listener, of handlers and of the mirror.

Only type checkers read this module, so `typing` is not imported by a running server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from socket import socket
from threading import Thread
from typing import Any, Protocol

from graced.loop.client import Client
from graced.loop.connection_log import ConnectionLog
from graced.loop.poller import Poller


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
    """Handlers in other threads (see `graced.handlers.pool.HandlerPool`).

    The I/O thread calls; no method blocks.
    """

    movable: bool
    """Whether a handler can save its state and go on in another process."""
    sends_unsent: bool
    """Whether a client may be given to its handler with bytes that another process has not sent."""

    @property
    def greet(self) -> bool | None:
        """Whether handlers speak first; None: nobody knows yet.

        A handler then starts when its client is accepted, otherwise when the first byte has come.
        """

    def reserve(self) -> bool:
        """Reserve a thread for the next `start`; return False where all are in use.

        `IOThread.start_waiting` is called when one is free again.
        """

    def start(self, client: Client) -> bool:
        """Start a handler for the client, which belongs to the handler from now on.

        Return False where no thread can be started: the client, with another socket, does not.
        """

    def say_goodbyes(self) -> float:
        """Say goodbye to the clients that are at rest now.

        Return the seconds after which another may be at rest.
        """

    def present(self) -> Sequence[Present]:
        """The clients that handlers have.  Any thread may ask."""

    def close_idle(self, timeout: float) -> float:
        """Close the clients that have been silent for `timeout` seconds.

        Return the seconds of the longest silence among the others.
        """


class Watched(Protocol):
    """A thread that must not wait (see `graced.loop.liveness.Liveness`)."""

    title: str
    """The thread, in the log."""
    answered: int
    """The number of the last probe that was answered."""

    @property
    def ident(self) -> int | None:
        """The identity of the thread, once it has started."""

    def probe(self, number: int) -> None:
        """Ask for a sign of life: `answered` becomes `number`."""


class CallingLoop(Watched, Protocol):
    """A thread that calls the handlers of many clients (see `graced.aio.event_loop.EventLoop`)."""

    handler: str
    """The name of the handler."""
    changed: Callable[[], None]
    """Called when a probe is answered."""


class Present(Protocol):
    """A client that a handler has.  Any thread may ask."""

    client: Client

    @property
    def silence(self) -> float:
        """Seconds since a byte was sent or received."""

    @property
    def written(self) -> int:
        """Bytes that the handler has written to the client."""

    @property
    def is_told(self) -> bool:
        """Whether the client knows that the server is going offline."""

    def tell(self) -> None:
        """Say goodbye if the client is at rest; to be called again until `is_told`."""

    def cut(self, reason: str) -> None:
        """End the connection, for the handler too; `reason` is for the log."""


class Goodbye(Protocol):
    """The goodbye to clients that an I/O thread owns."""

    def drain(self) -> None:
        """Tell all clients, each when it is at rest."""

    def tell(self, client: Any) -> None:
        """Tell a client if it is at rest; to be called again until it is told."""

    def forget(self, client: Any) -> None:
        """Forget a client that was told so and has gone, or is closed."""


class Restoring(Protocol):
    """Handlers that restore their state, and go on together."""

    def begin(self) -> None:
        """Let all handlers wait: clients with a saved state come now, until `all_started`."""

    def all_started(self) -> None:
        """Wait for no more clients."""


class Pool(Handlers, Protocol):
    """Handlers as the server has them (see `HandlerPool` and `graced.aio.pool.LoopPool`).

    The main thread calls.
    """

    restoring: Any
    """A `Restoring`."""

    @property
    def threads(self) -> list[Thread]:
        """The threads in which handlers run."""

    @property
    def event_loop(self) -> Any:
        """The `CallingLoop` of the handlers; None: each has a thread."""

    def settle(self, timeout: float) -> int:
        """Return the number of handlers that are busy, before `freeze`."""

    def freeze(self, timeout: float) -> list[Client]:
        """Take clients from their handlers and return them; the others remain."""

    def thaw(self) -> list[Client]:
        """After `settle`: let handlers go on; return the clients of handlers that cannot."""

    def drain(self, last: float) -> None:
        """Say goodbye to the clients, each when it is at rest and it is its turn, until `last`."""

    def close_all(self) -> int:
        """End the connections of all clients, and return their number."""

    def join(self, timeout: float) -> int:
        """Wait for the handlers; return the number of those that have not ended."""


class Streaming(Protocol):
    """A stream handler (see `graced.handlers.registry.Handler`)."""

    name: str
    """The name in the configuration."""
    factory: Callable[[], Any]
    """Returns the handler of a client; the handler has the callbacks of `asyncio.Protocol`."""
    movable: bool
    """Whether a handler can save its state and go on in another process."""
    holds_back: bool
    """Whether a client that does not take its bytes is not read, because the handler leaves
    `pause_writing` to graced."""
    words: Callable[[Any], bytes | None] | None
    """Returns the farewell that a handler says to its client; None: the policy has the farewell."""


class StreamClients(Protocol):
    """Clients of stream handlers (see `graced.loop.streams.Streams`)."""

    @property
    def kind(self) -> Streaming:
        """The handler of all clients."""

    def new(self, sock: socket, host: str, port: int, now: float, header: int) -> Client:
        """A client that has no handler yet."""

    def connect(self, client: Any, unsent: bytes = b"") -> None:
        """Make a handler for a client; `unsent` was written in another process."""

    def connection_lost(self, client: Any, error: BaseException | None) -> None:
        """Tell the handler of a client, once, that the connection is over."""

    def close_at_deadline(self, client: Any, reason: str = ...) -> None:
        """Say goodbye to a client that remains, and close it."""

    def adopt(self, client: Client) -> Client:
        """A frozen client, as a client of a stream handler."""

    def freeze(self, client: Any) -> Client | None:
        """Take a client from its handler; None where the client cannot be transferred.

        The descriptor is still in the epoll set.
        """


class Totals(Protocol):
    """The state of all clients together (see `graced.loop.clients.Clients`)."""

    log: ConnectionLog
    echoed: int
    activity_awaited: bool
    parts_until: float

    def report_activity(self) -> None:
        """Call `changed`, if that was asked for."""


class TransportOwner(Protocol):
    """The calls of a transport to its owner (see `graced.loop.streams.Streams`)."""

    poller: Poller

    @property
    def clients(self) -> Totals:
        """The state of all clients together."""

    def call(self, client: Any, callback: Callable[..., object], *args: Any) -> Any:
        """Call a function of the handler."""

    def keep_unsent(self, client: Any, data: Any, sent: int) -> None:
        """Keep bytes that the kernel does not take."""

    def pause_writing(self, client: Any) -> None:
        """Ask the handler to pause where its write buffer is above the limit."""

    def watch(self, client: Any) -> None:
        """Wait for the events that handler and write buffer need."""

    def end_soon(self, client: Any, error: BaseException | None, *, aborted: bool = False) -> None:
        """End a connection, and tell the handler at the end of the turn."""


class Mirror(Protocol):
    """Copies of clients' sockets, for the next process (see `graced.handover.mirror.Mirror`)."""

    def add(self, client: Client) -> None:
        """Keep a copy of the client's socket."""

    def discard(self, client: Client) -> None:
        """Drop the copy, before the client's socket is closed."""
