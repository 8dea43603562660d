"""Stream handlers: an I/O thread calls their callbacks and carries out their transports' requests.

The contracts are those of asyncio; docs/handlers.md lists the differences.  Three rules make a
handler's exception or request harmless to the loop and to other clients:

- Only this module calls a handler, and an exception ends the client of that handler.
- A handler is never called from within its own call, `pause_writing` excepted.  A connection that
  is over is DEPARTING, and `connection_lost` is called at the end of the turn.
- No method of a transport closes a descriptor, so no event of the same turn finds another client.
"""

from __future__ import annotations

from contextlib import suppress
from select import EPOLLIN, EPOLLOUT
from time import monotonic

from graced.log import events
from graced.log.event import summary_of
from graced.loop.client import Client, behind_proxy
from graced.loop.connection_log import DEADLINE
from graced.loop.phase import (
    DEPARTING,
    FAREWELL_PENDING,
    FAREWELL_SENT,
    GONE,
    INPUT_ENDED,
    NOT_TOLD,
    STREAMING,
    TOLD,
    WRITE_BLOCKED,
)
from graced.loop.transport import Transport
from graced.sockets import closing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket
    from typing import Any

    from graced.loop.clients import Clients
    from graced.loop.interfaces import Streaming

HANDLER_FAILED = "handler failed"
_READING = frozenset({STREAMING, FAREWELL_SENT})
"""The phases in which input is waited for."""
_OVER = frozenset({DEPARTING, GONE})
"""The phases in which nothing is waited for."""


class Streams:
    """The clients of one I/O thread, as clients of stream handlers.  For that thread alone."""

    def __init__(self, clients: Clients, kind: Streaming) -> None:
        self.clients = clients
        self.poller = clients.poller
        self.kind = kind
        self.on_rest: Callable[..., None] = lambda client, read=0: None
        """Called in the drain after each read or callback, with the bytes that were read."""
        clients.streams = self
        clients.resting = STREAMING

    def new(self, sock: socket, host: str, port: int, now: float, header: int) -> Transport:
        """A client that has no handler yet.  `header`: see `Client`."""
        return Transport(self, sock, host, port, STREAMING, now, header)

    def connect(self, client: Any, unsent: bytes = b"") -> None:
        """Make a handler for a client that is in the epoll set.

        `unsent`: bytes that the client's handler has written in another process.
        """
        client.parting = "closed by the handler"
        if unsent:
            self.keep_unsent(client, unsent, 0)
        self.call(client, self._connect, client)

    def _connect(self, client: Transport) -> None:
        client.set_protocol(self.kind.factory())
        client.protocol.connection_made(client)
        state, client.saved = client.saved, None
        if state is not None:
            client.unanswered = False
            client.protocol.restore(state)
        self.pause_writing(client)

    def call(self, client: Transport, callback: Callable[..., object], *args: Any) -> Any:
        """Call a function of the handler; an exception ends the client and returns None."""
        try:
            result = callback(*args)
        except BaseException as error:
            self.fail(client, error)
            return None
        if self.clients.draining:
            self.on_rest(client)
        return result

    def fail(self, client: Transport, error: BaseException) -> None:
        """Log an exception of the handler, and end its client."""
        if client.parting != HANDLER_FAILED:
            client.parting = HANDLER_FAILED
            events.HANDLER_FAILED(client=client, reason=summary_of(error), exc_info=error)
        self.end_soon(client, error)

    # Input: `graced.loop.stream_input` reads.

    def end_input(self, client: Transport) -> None:
        """Tell the handler that no input follows; its connection ends unless it wants to write."""
        client.at_eof = True
        if not self.call(client, client.protocol.eof_received):
            client.close()
        self.watch(client)

    def ignore(self, client: Transport) -> None:
        """Wait for no event of a broken connection whose handler does not read now.

        The kernel would report it in each turn.  When the handler reads again it finds the rest of
        the input, and the error.
        """
        self.poller.epoll.unregister(client.sock.fileno())
        client.note_interest(-1)

    # Output.

    def keep_unsent(self, client: Transport, data: Any, sent: int) -> None:
        """Keep bytes that the kernel does not take in the write buffer."""
        self.clients.count_unsent(len(data) - sent)
        client.direct = False
        if isinstance(client.unsent, bytearray):
            client.unsent += data
        else:
            client.unsent = bytearray(memoryview(data)[sent:])
            if client.phase == FAREWELL_PENDING:
                # Not at rest any more.
                client.phase = STREAMING
            elif client.phase != STREAMING:
                client.phase = WRITE_BLOCKED
            self._await_progress(client)
            self.watch(client)
        self.pause_writing(client)

    def _await_progress(self, client: Transport) -> None:
        client.due = 0.0
        if self.clients.policy.stall_timeout:
            self.poller.schedule_after(client, self.clients.policy.stall_timeout)

    def pause_writing(self, client: Transport) -> None:
        """Ask the handler to pause where its write buffer is above the limit."""
        above = len(client.unsent) > client.limits[1]
        if above and client.protocol and not client.writing_paused:
            client.writing_paused = True
            self.call(client, client.protocol.pause_writing)
            self.watch(client)

    def flush(self, client: Transport, _event: int) -> None:
        """Send unsent bytes."""
        if not client.unsent:
            return
        try:
            sent = client.sock.send(client.unsent)
        except BlockingIOError:
            return
        except OSError as error:
            self.end_soon(client, error)
            return
        self._count(client, sent)
        client.due = 0.0
        if client.unsent:
            self._await_progress(client)
        if client.writing_paused and len(client.unsent) <= client.limits[0]:
            client.writing_paused = False
            self.call(client, client.protocol.resume_writing)
        if not (client.unsent or client.lost):
            self._all_sent(client)
        self.watch(client)

    def _count(self, client: Transport, sent: int) -> None:
        assert isinstance(client.unsent, bytearray)
        client.last = self.poller.now
        client.echoed += sent
        self.clients.echoed += sent
        self.clients.count_unsent(-sent)
        self.clients.report_activity()
        del client.unsent[:sent]
        if not client.unsent:
            client.unsent = b""

    def _all_sent(self, client: Transport) -> None:
        if client.closing:
            self.end_soon(client, None)
            return
        if client.eof_written:
            client.shut_output()
        if client.phase == WRITE_BLOCKED:
            client.phase = FAREWELL_SENT if client.told == TOLD else STREAMING
        if self.clients.draining:
            self.on_rest(client)

    def watch(self, client: Transport) -> None:
        """Wait for the events that handler and write buffer need."""
        reads = client.reading and not (client.closing or client.at_eof)
        if client.writing_paused and self.kind.holds_back:
            reads = False
        interest = EPOLLIN if reads and client.phase in _READING else 0
        if client.unsent:
            interest |= EPOLLOUT
        if client.phase not in _OVER:
            self._set_interest(client, interest)

    def _set_interest(self, client: Transport, interest: int) -> None:
        if client.interest == interest:
            return
        fd = client.sock.fileno()
        if client.interest >= 0:
            self.poller.modify(fd, interest)
        elif interest:
            try:
                self.poller.register(fd, client, interest)
            except OSError as error:
                self.end_soon(client, error)
                return
        else:
            return
        client.note_interest(interest)

    # The end of a connection.

    def end_soon(
        self, client: Transport, error: BaseException | None, *, aborted: bool = False
    ) -> None:
        """End a connection, and tell the handler at the end of the turn."""
        if client.lost:
            return
        client.lost = client.closing = True
        client.direct = False
        client.error = error
        self.clients.count_unsent(-len(client.unsent))
        client.unsent = b""
        if aborted:
            client.parting = "aborted by the handler"
        elif isinstance(error, OSError) and client.parting != HANDLER_FAILED:
            client.parting = self.clients.reason_of(error)
        if client.phase != GONE:
            client.phase = DEPARTING
            # By the clock: calls that were scheduled before come first.
            self.poller.timers.schedule(client, monotonic())

    def end(self, client: Transport) -> None:
        """Tell the handler that its connection is over, and close it."""
        error, reason = client.error, client.parting
        self.connection_lost(client, error)
        if client.told == INPUT_ENDED and error is None:
            client.parting = reason = "at rest"
        graceful = reason in {"at rest", "closed by the handler", HANDLER_FAILED}
        if graceful:
            self._set_interest(client, EPOLLIN)
            self.clients.linger(client)
        else:
            self.clients.close(client, reason)

    def connection_lost(self, client: Any, error: BaseException | None) -> None:
        """Tell the handler, once, that its connection is over."""
        protocol, client.protocol = client.protocol, None
        client.closing = client.lost = True
        client.direct = False
        if protocol:
            try:
                protocol.connection_lost(error)
            except BaseException as failure:
                self.fail(client, failure)

    def close_at_deadline(self, client: Any, reason: str = DEADLINE) -> None:
        """Send what the client takes at once, and the farewell to a client at rest; then close."""
        if client.phase == DEPARTING:
            self.end(client)
            return
        words = b""
        if client.told == NOT_TOLD and self.is_at_rest(client):
            words = self.farewell_of(client) or b""
        with suppress(OSError):
            # The client may have departed, or take nothing: it is closed all the same.
            if client.unsent:
                self._count(client, client.sock.send(client.unsent))
            closing.part(client.sock, words)
        closing.discard(client.sock)
        self.clients.close(client, reason)

    # The farewell, see `graced.loop.stream_farewell`.

    def is_at_rest(self, client: Transport) -> bool:
        """Whether nothing received is unanswered or being answered, and everything is sent."""
        return not (client.unanswered or client.awaits_part or client.unsent or client.closing)

    def farewell_of(self, client: Transport) -> bytes | None:
        """The farewell that is declared for the client."""
        if self.kind.words and client.protocol:
            words: bytes | None = self.call(client, self.kind.words, client.protocol)
            return words
        return self.clients.policy.farewell

    # The transfer to another process.

    def adopt(self, client: Client) -> Transport:
        """A client that was frozen, as a client of a stream handler."""
        adopted = self.new(client.sock, client.host, client.port, client.since, client.header)
        adopted.counted, adopted.last = client.counted, client.last
        adopted.echoed, adopted.saved = client.echoed, client.saved
        adopted.unsent = client.unsent
        adopted.told, adopted.unheard = client.told, client.unheard
        return adopted

    def freeze(self, client: Any) -> Client | None:
        """Take a client from its handler; None where the client cannot be transferred.

        The descriptor is still in the epoll set.
        A handler that cannot save its state can be made anew if nothing was said yet.
        """
        if client.phase != STREAMING or client.closing or client.at_eof or client.eof_written:
            return None
        if isinstance(made := self.kind.factory, type) and type(client.protocol) is not made:
            # By `set_protocol`: the next process would give the state to a handler of our class.
            return None
        saved = None
        if self.kind.movable:
            saved = self.call(client, lambda: bytes(client.protocol.save()))
            if saved is None:
                return None
        elif client.unanswered is not None or client.echoed or client.unsent:
            return None
        self.clients.count_unsent(-len(client.unsent))
        frozen = Client(client.sock, client.host, client.port, GONE, client.since)
        frozen.last, frozen.echoed, frozen.unheard = client.last, client.echoed, client.unheard
        frozen.unsent, frozen.saved = bytes(client.unsent), saved
        client.protocol = None
        client.closing = client.lost = True
        client.direct = False
        client.phase = GONE
        self.poller.timers.cancel(client)
        return behind_proxy(frozen, client.header)
