"""The clients of an I/O thread: bytes received, echoed and unsent, and how a client is closed."""

from __future__ import annotations

from contextlib import suppress
from math import inf
from mmap import mmap
from select import EPOLLIN, EPOLLOUT
from socket import MSG_PEEK, SHUT_RDWR

from graced.log import events
from graced.loop.client import TURNED_AWAY, Client, behind_proxy
from graced.loop.connection_log import DEADLINE, ConnectionLog, is_probe
from graced.loop.phase import (
    ACTIVE,
    AWAITING_FIRST_BYTE,
    CLIENT_PHASES,
    GONE,
    LINGERING,
    SECURING,
    STREAMING,
    TRACED,
    WRITE_BLOCKED,
)
from graced.sockets import closing
from graced.sockets.closing import LINGER_TIMEOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket
    from typing import Any

    from graced.loop.admission import Admission
    from graced.loop.interfaces import Handlers, Mirror, StreamClients
    from graced.loop.policy import Policy
    from graced.loop.poller import Poller
    from graced.loop.silence import SilenceWatch
    from graced.loop.waiting import Waiting

BUFFER_SIZE = 1024 * 1024
"""Bytes of the largest read; a quarter of the size was a fifth slower with one bulk client."""
STREAM_READ = 64 * 1024
"""Bytes of the largest read for a stream handler."""
SMALL_READ = 16 * 1024
"""Bytes of the largest read while the unsent bytes are over budget."""
UNSENT_BUDGET = 16 * 1024 * 1024
"""Unsent bytes of all clients together from which on reads are small.

Clients that do not read cost this and a `SMALL_READ` each, and no more."""
READS_AT_DEADLINE = 4
"""Reads from each client at the deadline, which is final also for a client that never pauses."""
LOGGED_BYTES = 64
"""Bytes of a message that are logged."""

RESTING = frozenset({ACTIVE, AWAITING_FIRST_BYTE, STREAMING, TRACED})
"""The phases of a client that is read, and of which nothing is known that would keep it busy."""


class Clients:
    """The clients of one I/O thread, with the state that its other parts share.

    For that thread alone, except `report_next_activity` and the counters, which any thread may use.
    """

    telling: Any = None
    """Clients that an operator tells (`graced.loop.telling`), once there was one."""

    def __init__(
        self,
        poller: Poller,
        admission: Admission,
        policy: Policy,
        *,
        handlers: Handlers | None,
        mirror: Mirror | None,
        changed: Callable[[], None],
    ) -> None:
        self.poller = poller
        self.admission = admission
        self.policy = policy
        self.handlers = handlers
        self.streams: StreamClients | None = None
        """The callers of stream handlers, if the clients have such handlers."""
        self.mirror = mirror
        self.log = ConnectionLog(policy)
        self.changed = changed
        """Wakes the main thread."""

        self.echoed = 0
        """Bytes sent back to clients."""
        self.departed = 0
        """Clients that departed during the drain."""
        self.closed = 0
        """Clients that were closed at the deadline."""
        self.lingering = 0
        """Clients in the phase `LINGERING`."""
        self.arriving = 0
        """Connections whose PROXY header has not come yet."""

        self.draining = False
        """Whether the drain has begun."""
        self.parts_until = inf
        """Monotonic time from which on a timed call of a stream handler is no part of an answer."""
        self.at_deadline = False
        """Whether the deadline has passed.

        `finished` becomes true when no client lingers and none may come."""
        self.awaiting_handshakes = False
        """Whether handshakes that have begun may bring clients after the deadline."""
        self.finished = False
        """Whether the I/O thread is to end."""

        self.resting = ACTIVE
        """The phase of a client that is read and has not got the farewell."""
        if handlers:
            self.resting = AWAITING_FIRST_BYTE
        elif events.RECEIVED.enabled():
            self.resting = TRACED

        # Anonymous memory: pages that no message has needed yet cost nothing.
        self._buffer = memoryview(mmap(-1, BUFFER_SIZE))
        self.view = self._buffer
        """The part of the buffer that a read may fill."""
        self.read_size = STREAM_READ
        """The bytes that a read for a stream handler may return."""
        self.waiting: Waiting | None = None
        """Clients that wait for a thread of a handler."""
        self.silence: SilenceWatch | None = None
        """Clients that may wait for the first word of their handler."""
        if handlers:
            self._wait_for(handlers)
        self._unsent = 0
        self.activity_awaited = False
        """Whether `report_activity` has to be called at the next activity."""

    def _wait_for(self, handlers: Handlers) -> None:
        # The echo and stream handlers do without these modules.
        from graced.loop.silence import SilenceWatch  # noqa: PLC0415
        from graced.loop.waiting import Waiting  # noqa: PLC0415

        self.waiting = Waiting(
            self.poller,
            self.admission,
            handlers,
            close=self.close,
            report_activity=self.report_activity,
        )
        self.silence = SilenceWatch(self.poller, handlers, self.waiting, self.present)

    def new(self, sock: socket, host: str, port: int, header: int = 0) -> Client:
        """A client that has just been accepted.  `header`: see `Client`."""
        if self.streams:
            return self.streams.new(sock, host, port, self.poller.now, header)
        client = Client(sock, host, port, self.resting, self.poller.now)
        return behind_proxy(client, header)

    def first_phase(self, client: Client) -> int:
        """The phase of a client that is new to this thread.

        The hot loop does not log: a client that is logged at its first byte is TRACED until then.
        """
        return TRACED if client.unheard and self.resting == ACTIVE else self.resting

    def present(self) -> list[Client]:
        """All clients that this thread serves, lingering clients included."""
        sources = self.poller.sources
        return [c for c in sources if isinstance(c, Client) and c.phase < CLIENT_PHASES]

    @property
    def uncounted(self) -> int:
        """Connections that are no clients any more, or not yet."""
        return self.lingering + self.arriving

    # Activity.

    def report_next_activity(self) -> None:
        """Call `changed` once, when bytes are echoed or a client comes or goes."""
        self.activity_awaited = True

    def report_activity(self) -> None:
        """Call `changed`, if that was asked for."""
        if self.activity_awaited:
            self.activity_awaited = False
            self.changed()

    # Bytes.

    def receive(self, client: Client, most: int = BUFFER_SIZE) -> int | None:
        """Read up to `most` bytes into `view` and return their number; 0 at end of file.

        None: there was nothing to read, or the connection is lost and the client is closed.
        """
        try:
            return client.sock.recv_into(self.view, min(most, len(self.view)))
        except OSError as error:
            self.lost(client, error)
            return None

    def echo(self, client: Client, most: int = BUFFER_SIZE) -> bool:
        """Read and echo, as the hot loop does; return whether everything is sent."""
        received = self.receive(client, most)
        if received is None:
            return False
        if not received:
            self.close(client, "closed by the client")
            return False
        self.log.hear(client)
        if self.resting == TRACED:
            events.RECEIVED(client=client, data=_excerpt(self.view[:received]))
        self.keep_unsent(client, self.view[:received])
        return self.flush(client)

    def keep_unsent(self, client: Client, rest: memoryview) -> None:
        """Keep bytes that the kernel does not take, and do not read the client until it does."""
        client.unsent = bytes(rest)
        self.count_unsent(len(rest))
        client.phase = WRITE_BLOCKED
        self.poller.modify(client.sock.fileno(), EPOLLOUT)
        self._await_progress(client)

    def count_unsent(self, change: int) -> None:
        """Add to the unsent bytes of all clients; reads become small while these are too many."""
        self._unsent += change
        within = self._unsent < UNSENT_BUDGET
        self.view = self._buffer if within else self._buffer[:SMALL_READ]
        self.read_size = STREAM_READ if within else SMALL_READ

    def _await_progress(self, client: Client) -> None:
        if self.policy.stall_timeout:
            self.poller.schedule_after(client, self.policy.stall_timeout)

    def flush(self, client: Client) -> bool:
        """Send unsent bytes; return whether all are sent.  The caller then sets the phase."""
        try:
            sent = client.sock.send(client.unsent)
        except OSError as error:
            self.lost(client, error)
            return False
        client.last = self.poller.now
        client.echoed += sent
        self.echoed += sent
        self.count_unsent(-sent)
        client.unsent = client.unsent[sent:]
        if client.unsent:
            self._await_progress(client)
            return False
        client.due = 0.0
        return True

    def close_stalled(self, client: Client) -> None:
        """Close a client that has taken none of its unsent bytes for `stall_timeout`."""
        self.close(client, "stalled")

    def resume(self, client: Client, phase: int) -> None:
        """Read the client again, in the given phase."""
        client.phase = phase
        self.poller.modify(client.sock.fileno(), EPOLLIN)

    def start_handler(self, client: Client, _event: int) -> None:
        """Give the client to a handler, which owns it from then on, as soon as a thread is free."""
        if client.unheard:
            with suppress(OSError):
                # The handler finds what it is: a byte, end of file or an error.
                if client.sock.recv(1, MSG_PEEK):
                    self.log.hear(client)
        assert self.waiting
        self.waiting.start_or_wait(client)

    # The end of a connection.

    def linger(self, client: Client, last_words: bytes = b"") -> None:
        """Begin a lingering close: tell the client the last words, and send end of file.

        Bytes that the kernel does not take at once are dropped.  Closing now would send RST if
        input is unread, and RST destroys bytes that the client has not read.
        """
        self.lingering += 1
        client.phase = LINGERING
        self.poller.schedule_after(client, LINGER_TIMEOUT)
        try:
            closing.part(client.sock, last_words)
        except OSError as error:
            self.lost(client, error)

    def discard_input(self, client: Client, _event: int) -> None:
        """Discard what a lingering client sends; close at end of file."""
        if self.receive(client) == 0:
            self.end_lingering(client)

    def end_lingering(self, client: Client) -> None:
        """Close a lingering client."""
        self.close(client, client.parting)

    def lost(self, client: Client, error: OSError) -> None:
        """Close a client whose socket has failed; `BlockingIOError` is no failure."""
        if not isinstance(error, BlockingIOError):
            self.close(client, self.reason_of(error))

    @staticmethod
    def reason_of(error: OSError) -> str:
        """The reason in the log for a client whose socket has failed."""
        if isinstance(error, ConnectionError):
            return "reset by the client"
        return error.strerror or str(error)

    def close(self, client: Client, reason: str) -> None:
        """Close a client, count it and log the reason."""
        if self.streams:
            self.streams.connection_lost(client, ConnectionAbortedError(reason))
        if client.phase == LINGERING:
            self.lingering -= 1
            self.departed += self.draining and client.parting != TURNED_AWAY
        elif self.at_deadline:
            self.closed += 1
        elif self.draining:
            self.departed += 1
        self.count_unsent(-len(client.unsent))
        client.unsent = b""
        client.phase = GONE
        if self.waiting:
            self.waiting.remove(client)
        self.poller.timers.cancel(client)
        self.poller.forget(client.sock.fileno())
        if self.mirror or self.handlers or self.streams:
            self._end_copies(client)
        client.sock.close()
        if client.counted:
            self.admission.leave(client.host, probe=is_probe(client))
            self.log.end(client, reason, self.poller.now)
            if self.activity_awaited:
                self.report_activity()
            if self.draining and not self.admission.clients:
                self.changed()
        self._finish_when_alone()

    def _finish_when_alone(self) -> None:
        if self.at_deadline and not (self.lingering or self.awaiting_handshakes):
            self.finished = True

    def _end_copies(self, client: Client) -> None:
        """End a connection of which the mirror, or the child of a handler, may have a copy.

        Closing our descriptor leaves the copy open and registered with epoll.
        """
        with suppress(OSError):
            client.sock.shutdown(SHUT_RDWR)
        with suppress(OSError):
            self.poller.unregister(client.sock.fileno())
        if self.mirror:
            self.mirror.discard(client)

    def stop_awaiting_handshakes(self) -> None:
        """Expect no other client: `finished` becomes true when no refused client lingers."""
        self.awaiting_handshakes = False
        self._finish_when_alone()

    def close_at_deadline(self) -> None:
        """Close all clients; `finished` becomes true when no refused client lingers any more."""
        self.at_deadline = True
        for client in self.present():
            if client.phase != LINGERING:
                self.part(client)
        self._finish_when_alone()

    def part(self, client: Client, reason: str = DEADLINE) -> None:
        """Send the last echo, the farewell unless it was sent before, and FIN; then close."""
        if self.streams and client.phase != SECURING:
            self.streams.close_at_deadline(client, reason)
            return
        with suppress(OSError):
            # The client may have departed, or take nothing: it is closed all the same.
            told = client.phase == SECURING or not self._echo_rest(client) or client.told
            closing.part(client.sock, b"" if told else self.policy.farewell or b"")
        closing.discard(client.sock)
        self.close(client, reason)

    def _echo_rest(self, client: Client) -> bool:
        """Echo the bytes that had arrived by the deadline; return whether everything is sent."""
        if client.unsent or self.resting == AWAITING_FIRST_BYTE:
            return not client.unsent
        try:
            for _ in range(READS_AT_DEADLINE):
                received = client.sock.recv_into(self._buffer)
                if not received:
                    break
                sent = client.sock.send(self._buffer[:received])
                client.echoed += sent
                self.echoed += sent
                if sent < received:
                    return False
        except BlockingIOError:
            return True
        return True


def _excerpt(data: memoryview) -> str:
    text = repr(bytes(data[:LOGGED_BYTES]))
    return text if len(data) <= LOGGED_BYTES else f"{text}... ({len(data)} bytes)"
