"""A session: a client with its request, from its start in a pool of handlers to the handler's end.

A request is a `HandlerSocket` unless a program has made a socket of its own of it; of such a socket
the pool knows nothing, and its handler is never handed over.
"""

from __future__ import annotations

import signal
import socket
import sys
import time

from graced.handlers.handler_socket import HandlerSocket
from graced.log import events
from graced.log.event import summary_of
from graced.loop.phase import NOT_TOLD
from graced.signals import NUDGE
from graced.sockets import elsewhere
from graced.sockets.closing import end_both_ways
from graced.sockets.timeout import set_timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from graced.loop.client import Client

HANDLER_ENDED = "handler ended"
"""The reason in the log for a client whose handler has returned."""
RESET = "reset by the client"
"""The reason in the log for a client whose connection broke under its handler."""
BUSY_AFTER = 0.1
"""Seconds of silence after which a handler that is not in a read counts as busy."""


class Session:
    """A client with its request.  Any thread may call."""

    __slots__ = ("_looked_at", "address", "client", "fate", "request", "thread")

    def __init__(self, client: Client, request: socket.socket, address: Any = None) -> None:
        self.client = client
        self.address = address
        """The address of the client, as the handler gets it."""
        self.request = request
        self.thread = 0
        """The identity of the handler's thread; 0 while the session waits for a thread."""
        self.fate = ""
        """The reason in the log for an end that an operator has ordered."""
        self._looked_at: tuple[int, int] | None = None
        """What had been received and written when the handler was last seen in a read."""

    @property
    def ours(self) -> HandlerSocket | None:
        """The request, if it is one on which the server can say goodbye."""
        request = self.request
        return request if isinstance(request, HandlerSocket) else None

    # For an operator.

    @property
    def silence(self) -> float:
        """Seconds since a byte was sent or received; 0: nobody knows."""
        return self.ours.silence if self.ours else 0.0

    @property
    def written(self) -> int:
        """Bytes that the handler has written to the client."""
        return self.ours.written if self.ours else 0

    def tell(self) -> None:
        """Say goodbye if the client is at rest; to be called again until `is_told`."""
        if request := self.ours:
            request.begin_drain()
            request.say_goodbye()

    def cut(self, reason: str) -> None:
        """End the connection, for the handler too; `reason` is for the log."""
        self.fate = reason
        self.end()
        if (request := self.ours) and request.gone:
            # Wrapped in TLS, for example.
            for sock in elsewhere.find({request.gone}).values():
                with sock:
                    end_both_ways(sock)

    @property
    def is_told(self) -> bool:
        """Whether the client knows that the server is going offline."""
        return self.ours.is_told if self.ours else False

    @property
    def is_parting(self) -> bool:
        """Whether the client is told, or shall be as soon as it is at rest."""
        return self.ours.is_parting if self.ours else False

    @property
    def is_unanswered(self) -> bool:
        """Whether the client has asked for something, and the handler does not wait for more.

        As far as can be seen: a handler may wait for more in another way than by a read.
        """
        request = self.ours
        return request is not None and not (request.is_at_rest or request.handler_waits)

    # The handover.

    @property
    def is_busy(self) -> bool:
        """Whether the handler does something that takes time, and does not wait for its client."""
        request = self.ours
        if request is None or not self.thread or request.is_told:
            return False
        if request.only_writes:
            return True
        if request.silence < BUSY_AFTER:
            return False
        # To ask the kernel takes three system calls, and so three waits for the GIL.
        progress = request.progress
        if progress and progress == self._looked_at:
            return False
        if not request.handler_waits:
            return True
        self._looked_at = progress
        return False

    def freeze(self) -> None:
        """Let the handler save its state at its read, if it waits in one, or at its next read."""
        if request := self.ours:
            request.freeze()

    def nudge(self) -> None:
        """Interrupt a read of the handler, which then finds its socket frozen.

        The thread has not ended: the caller holds the lock of the pool.  Raises `OSError` where a
        filter forbids tgkill(2): a handler that waits in a read then remains there.
        """
        if self.thread:
            signal.pthread_kill(self.thread, NUDGE)

    def thaw(self) -> bool:
        """Let the handler go on in this process; return whether it was frozen."""
        request = self.ours
        if request is None or not request.freezing:
            return False
        request.thaw()
        return True

    @property
    def is_frozen(self) -> bool:
        """Whether the handler is to save its state instead of reading."""
        request = self.ours
        return request is not None and request.freezing

    @property
    def is_saved(self) -> bool:
        """Whether the handler has ended and saved its state, to go on in another process."""
        request = self.ours
        return request is not None and request.saved is not None and request.fileno() >= 0

    def reclaim(self) -> Client:
        """Take the client back from a handler that has ended or not begun, with its saved state.

        Whether the descriptor blocks is for `Transfer.adopt` to set, here or in the next process.
        """
        client, request = self.client, self.request
        if isinstance(request, HandlerSocket):
            request.thaw()
            client.echoed += request.written
            client.saved = request.saved
            fd = request.release()
        else:
            fd = request.detach()
        client.last = time.monotonic()
        client.sock = socket.socket(fileno=fd)
        return client

    # The end.

    def failed(self, error: BaseException, *, stalls: bool, draining: bool) -> str:
        """Log an exception of the handler that is its fault, and return the reason for the log.

        `stalls`: whether there is a `stall_timeout`.  `draining`: whether the drain has begun.
        """
        if isinstance(error, BlockingIOError) and stalls and self.blocks:
            # The error of a write after SO_SNDTIMEO.
            return "stalled"
        if _is_end_of_tls(error):
            return HANDLER_ENDED if draining else RESET
        events.HANDLER_FAILED(client=self.client, reason=summary_of(error), exc_info=error)
        return "handler failed"

    @property
    def blocks(self) -> bool:
        """Whether calls of the handler wait, without a timeout."""
        return self.request.fileno() >= 0 and self.request.gettimeout() is None

    def tell_at_deadline(self) -> bool:
        """Send a declared farewell to a client at rest; return False if in vain."""
        request = self.ours
        return request is None or request.tell_at_deadline()

    def end(self) -> None:
        """Send end of file to client and handler."""
        if request := self.ours:
            request.end()
        else:
            end_both_ways(self.request)


def peer_address(client: Client) -> Any:
    """The address of a client as accept(2) has returned it.

    Not kept from the accept on: a client of the echo, of which there are most, has no use for it.
    """
    if client.header:
        return client.peer
    try:
        return client.sock.getpeername()
    except OSError:
        # The client has reset the connection; its handler finds that out.
        return client.host, client.port


def new_session(
    client: Client, address: Any, farewell: bytes | None, gap: float, stall_timeout: float
) -> Session:
    """A session for a client, whose socket becomes a request; see `graced.loop.policy`."""
    request = client.sock
    if type(request) is socket.socket:
        request = HandlerSocket(request, farewell, gap, told=client.told != NOT_TOLD)
        request.header = client.header
        request.saved = client.saved
        client.sock = request
    request.setblocking(True)
    if stall_timeout:
        # A write of the handler fails after so long without progress, socket(7).
        set_timeout(request, socket.SO_SNDTIMEO, stall_timeout)
    return Session(client, request, address)


def _is_end_of_tls(error: BaseException) -> bool:
    """Whether a TLS session has ended because its connection has, which is no fault of the handler.

    OpenSSL takes an end of file without a close_notify for an error, unless a handler sets
    `ssl.OP_IGNORE_UNEXPECTED_EOF`, and refuses to write afterwards.
    """
    # Not imported: a server without TLS would pay for the module.
    ssl = sys.modules.get("ssl")
    if ssl is None or not isinstance(error, ssl.SSLError):
        return False
    # Python 3.11.2 of Debian 12 has no class of its own for the error of a read.
    return isinstance(error, ssl.SSLEOFError) or error.reason == "UNEXPECTED_EOF_WHILE_READING"
