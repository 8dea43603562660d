"""The input of clients of stream handlers, and the loop of an I/O thread that serves them.

A loop of its own, as that of the echo is in `graced.loop.io_thread`: a client that reads as usual
costs no call but the handler's own.  To call a method for each event, and to ask in each write what
`Transport.direct` now knows, cost 4% of a round trip.
"""

from __future__ import annotations

from math import inf
from select import EPOLLIN, EPOLLOUT
from time import monotonic

from graced.loop.phase import STREAMING
from graced.loop.poller import EVENTS_PER_TURN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from graced.loop.streams import Streams
    from graced.loop.transport import Transport

    OnEvent = Sequence[Callable[[Any, int], None]]


class StreamInput:
    """Reads the clients of stream handlers.  For the I/O thread."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._clients = streams.clients
        self._poller = streams.poller

    def run(self, on_event: OnEvent, run_timers: Callable[[], None]) -> None:
        """Serve until finished.  `on_event`: what to do, by phase, about all other sources."""
        poller, timers = self._poller, self._poller.timers
        while not self._clients.finished:
            timeout = -1 if timers.next == inf else poller.timeout()
            ready = poller.epoll.poll(timeout, EVENTS_PER_TURN)
            poller.now = monotonic()
            self._serve(ready, on_event)
            if timers.next <= poller.now:
                run_timers()

    def receive(self, client: Transport, event: int) -> None:
        """Call the handler of one client with input; send unsent bytes."""
        self._serve([(client.sock.fileno(), event)], [])

    def _serve(self, ready: Sequence[tuple[int, int]], on_event: OnEvent) -> None:
        clients, now, sources = self._clients, self._poller.now, self._poller.sources
        echoed_before = clients.echoed
        client: Any
        for fd, event in ready:
            client = sources[fd]
            if client.phase != STREAMING:
                on_event[client.phase](client, event)
                now = self._poller.now
                continue
            if (event != EPOLLIN or not client.reads_plainly) and not self._may_read(client, event):
                continue
            try:
                data = client.sock.recv(clients.read_size)
            except OSError as error:
                self._lost(client, error)
                continue
            if not data:
                self._end_input(client)
                continue
            client.last = now
            client.unanswered, client.part = True, None
            if client.unheard:
                clients.log.hear(client)
            try:
                client.protocol.data_received(data)
            except BaseException as error:
                self._streams.fail(client, error)
            if clients.draining:
                self._streams.on_rest(client, len(data))
        if clients.activity_awaited and clients.echoed != echoed_before:
            clients.report_activity()

    def _may_read(self, client: Transport, event: int) -> bool:
        """Send unsent bytes; return whether there may be input for `data_received`."""
        if client.unsent and event & ~EPOLLIN:
            self._streams.flush(client, event)
        if client.interest & EPOLLIN and client.phase == STREAMING and event != EPOLLOUT:
            if not client.buffered:
                return True
            self._streams.call(client, self._fill_buffer, client)
        elif not client.interest:
            self._streams.ignore(client)
        return False

    def _fill_buffer(self, client: Transport) -> None:
        buffer = client.protocol.get_buffer(-1)
        if not (size := len(buffer)):
            raise RuntimeError("get_buffer() returned an empty buffer")
        try:
            received = client.sock.recv_into(buffer)
        except OSError as error:
            self._lost(client, error)
            return
        if not received:
            self._end_input(client)
            return
        client.last = self._poller.now
        client.unanswered, client.part = True, None
        if client.unheard:
            self._clients.log.hear(client)
        if self._clients.draining:
            self._streams.on_rest(client, received)
        client.protocol.buffer_updated(received)
        if received == size and client.has_tls:
            self._fill_again(client)

    def _fill_again(self, client: Transport) -> None:
        """Read the rest of a record of TLS that the buffer was too small for: epoll sees none."""
        sock: Any = client.sock
        while not client.closing and (rest := sock.pending()):
            buffer = memoryview(client.protocol.get_buffer(-1))[:rest]
            received = sock.recv_into(buffer)
            client.protocol.buffer_updated(received)

    def _lost(self, client: Transport, error: OSError) -> None:
        if not isinstance(error, BlockingIOError):
            self._streams.end_soon(client, error)

    def _end_input(self, client: Transport) -> None:
        client.parting = "closed by the client"
        self._streams.end_input(client)
