"""The hot loop: one thread with one epoll set, which alone owns its clients.

What makes the loop fast
    The echo of a message takes three system calls (epoll_wait, recv, send).  At 160,000 messages a
    second there are six microseconds for a message, of which the kernel takes five.  So the loop
    does for a message only what cannot be omitted: find the client in a list by its descriptor,
    compare its phase with zero, read into the buffer of the thread, send from the same buffer, and
    note how many bytes went and when.

    - No lock is taken, because no other thread touches a client.
    - Nothing is allocated while messages have the same length: the slice of the buffer is reused.
    - No timer is moved: timeouts are found by looking at `Client.last` when they may have passed.
    - No log level is checked: clients whose messages are logged have a phase of their own.
    - The clock is read once for all clients that an epoll_wait returns.

    Everything that happens less often than a message is behind `EventSource.phase`, in two tables:
    what to do when a descriptor is ready, and what to do when a point in time has come.

    Several such threads gain nothing under a GIL: each thread would wait for the system calls of
    the others, up to 5 ms at a time.

What makes the loop safe
    Other threads change nothing themselves: they post an action, and the I/O thread runs the action
    between two messages.

    A client that does not read is not read either: its unsent bytes are at most one read, and
    a small read when many clients do so (`graced.loop.clients.UNSENT_BUDGET`).

    Interest in a descriptor changes only when epoll reports news that cannot be used yet.  So the
    farewell to five thousand idle clients is five thousand sends and no other system call.

The farewell stands alone
    A client that compares a read with the farewell must find the farewell in a read of its own,
    with no echo before or behind.  When the drain begins, all bytes that have arrived are echoed,
    if need be as the client takes them; later bytes wait (`Farewell._arrived`).
    A client that has been quiet for the gap gets the farewell at once (FAREWELL_SENT).  Any other
    client is not read until the gap is over, and gets the farewell then (FAREWELL_PENDING).  The
    first bytes after the farewell stay in the kernel for the gap (READ_PAUSED): a client that sends
    first and reads then has read the farewell before the echo comes.  After that, the client is
    served as before::

        ACTIVE ──drain──▶ FAREWELL_SENT ──bytes──▶ READ_PAUSED ──gap──▶ ACTIVE
           │                    ▲
           └─▶ FAREWELL_PENDING ┘ gap       (and WRITE_BLOCKED whenever bytes cannot be sent)

Where the rest is
    `graced.loop.acceptor`: accept, refuse, turn away.  `clients`: receive, echo, flush, close.
    `farewell`: the phases above.  `idle`: the idle timeout.  `transfer`: freeze and adopt.
    Their methods are bound into the tables once, so that the division costs the loop nothing.
"""

from __future__ import annotations

from functools import partial
from math import inf
from threading import Thread
from time import monotonic

from graced.loop import phase
from graced.loop.acceptor import Acceptors
from graced.loop.clients import Clients
from graced.loop.event_source import EventSource
from graced.loop.farewell import Farewell
from graced.loop.idle import IdleSweep
from graced.loop.poller import EVENTS_PER_TURN, Poller
from graced.loop.transfer import Transfer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from graced.loop.admission import Admission
    from graced.loop.client import Client
    from graced.loop.interfaces import Goodbye, Handlers, Listener, Mirror, Streaming
    from graced.loop.policy import Policy
    from graced.loop.stream_farewell import StreamFarewell

FINISH_TIMEOUT = 0.25
"""Seconds within which the thread ends after `finish`."""


class IOThread(Thread):
    """Accepts and serves clients until `finish`.

    The main thread constructs, starts, joins and closes the thread.  Any thread may make the
    requests (`post` to `finish`) and read the counters; `clients` is for what is posted.
    """

    title = "an I/O thread"
    """The thread, in the log."""

    def __init__(
        self,
        listeners: Iterable[Listener],
        admission: Admission,
        policy: Policy,
        *,
        handlers: Handlers | None = None,
        streaming: Streaming | None = None,
        mirror: Mirror | None = None,
        changed: Callable[[], None] = lambda: None,
        shared: bool = False,
        name: str = "io",
    ) -> None:
        """Without `handlers` and `streaming`, clients are echoed.

        `changed` is called when the drain has begun, when the last client of a drain departs,
        when a probe is answered, when this thread ends, and once after `report_next_activity`.
        `shared`: other I/O threads accept from the same listeners.
        """
        super().__init__(name=name, daemon=True)
        self.answered = 0
        """The number of the last `probe` that was answered."""
        self.failure: BaseException | None = None
        """The exception that has ended this thread, if any."""
        self.draining = False
        """Whether the drain has begun: every client that connected before is counted by then."""

        self._changed = changed
        self._poller = Poller()
        self.clients = self._clients = Clients(
            self._poller, admission, policy, handlers=handlers, mirror=mirror, changed=changed
        )
        self._stream_farewell: StreamFarewell | None = None
        if streaming:
            # Not imported for the echo: a twentieth of the time that a start takes.
            from graced.loop.stream_farewell import StreamFarewell  # noqa: PLC0415
            from graced.loop.streams import Streams  # noqa: PLC0415

            self._stream_farewell = StreamFarewell(Streams(self._clients, streaming))
        self._idle = IdleSweep(self._clients)
        self._acceptors = Acceptors(listeners, self._clients, self._idle, shared=shared)
        self._farewell = Farewell(self._clients)
        self._transfer = Transfer(self._clients, self._acceptors, self._idle)
        self.goodbye: Goodbye = self._stream_farewell or self._farewell
        """Of clients that no other thread has, for what is posted."""
        self._on_event = self._event_table()
        self._on_due = self._due_table()
        self._acceptors.enter(self._on_event, self._on_due, self._farewell.tell_late)

    def _event_table(self) -> list[Callable[[Any, int], None]]:
        """What to do when a descriptor is ready, by the phase of its source.

        The loop itself serves a client that is ACTIVE.
        """
        table: dict[int, Callable[[Any, int], None]] = {
            phase.AWAITING_FIRST_BYTE: self._clients.start_handler,
            phase.TRACED: self._echo,
            phase.WRITE_BLOCKED: self._flush,
            phase.FAREWELL_PENDING: self._farewell.leave_unread,
            phase.FAREWELL_SENT: self._farewell.pause_reading,
            phase.READ_PAUSED: self._farewell.leave_unread,
            phase.LINGERING: self._clients.discard_input,
            phase.LISTENING: self._acceptors.accept,
            phase.ARRIVING: self._acceptors.hear_header,
            phase.WAKING: self._poller.woken,
        }
        if waiting := self._clients.waiting:
            table[phase.AWAITING_THREAD] = waiting.hear
        if self._stream_farewell:
            table |= self._stream_farewell.on_event()
        return [table.get(number, self._ignore) for number in range(phase.PHASES)]

    def _due_table(self) -> dict[int, Callable[[Any], None]]:
        """What to do when the time of a source has come, by its phase."""
        table: dict[int, Callable[[Any], None]] = {
            phase.WRITE_BLOCKED: self._clients.close_stalled,
            phase.FAREWELL_PENDING: self._farewell.send_pending,
            phase.READ_PAUSED: self._farewell.resume_reading,
            phase.LINGERING: self._clients.end_lingering,
            phase.LISTENING: self._acceptors.retry,
            phase.ARRIVING: self._acceptors.miss_header,
            phase.SWEEPING: self._idle.close_idle,
            phase.REPORTING: self._acceptors.report_refusals,
            phase.REMINDING: self._farewell.remind,
            phase.TAKING_TURNS: self._farewell.tell_next,
            phase.HANDSHAKING: self._end_handshakes,
            phase.TELLING: lambda telling: telling.look(),
            phase.ENDING: self._end,
        }
        if (waiting := self._clients.waiting) and (silence := self._clients.silence):
            table |= {phase.AWAITING_THREAD: waiting.retry, phase.TRYING: silence.start_handler}
        if self._stream_farewell:
            table |= self._stream_farewell.on_due()
        return table

    # The counters.

    @property
    def echoed(self) -> int:
        """Bytes sent back to clients."""
        return self._clients.echoed

    @property
    def departed(self) -> int:
        """Clients that departed during the drain."""
        return self._clients.departed

    @property
    def closed(self) -> int:
        """Clients that were closed at the deadline."""
        return self._clients.closed

    @property
    def waiting(self) -> int:
        """Clients that wait for a thread in which their handler can run."""
        return self._clients.waiting.number if self._clients.waiting else 0

    # Requests of other threads.

    def post(self, action: Callable[[], None]) -> None:
        """Call `action` in this thread, between two messages."""
        self._poller.post(action)

    def probe(self, number: int) -> None:
        """Ask for a sign of life: `answered` becomes `number`."""

        def answer() -> None:
            self.answered = number
            self._changed()

        self.post(answer)

    def report_next_activity(self) -> None:
        """Call `changed` once, when bytes are echoed or a client comes or goes."""
        self._clients.report_next_activity()

    def drain(self, parts_until: float = inf) -> None:
        """Begin the drain (see `graced.loop.policy`): echo what has arrived, send the farewell.

        Clients that are served come first, then the clients that are queued by now.
        """
        self.post(partial(self._drain, parts_until))

    def listen(self, listeners: Sequence[Listener]) -> None:
        """Accept clients from further listeners."""
        self.post(lambda: self._acceptors.add(listeners))

    def unlisten(self, listener: Listener, done: Callable[[], None]) -> None:
        """Accept no more clients from a listener; then call `done` in this thread."""
        self.post(partial(self._acceptors.remove, listener))
        self.post(done)

    def accept(self, *, again: bool) -> None:
        """Accept `again`, or leave all listeners alone, which stay open."""
        self.post(self._acceptors.open_all if again else self._acceptors.abandon_all)

    def start_waiting(self) -> None:
        """Start handlers of clients that wait for a thread: a thread may be free."""
        if self._clients.waiting:
            self.post(self._clients.waiting.start)

    def freeze(self, take: Callable[[Transfer], None]) -> None:
        """Let `take`, called in this thread, stop serving by `Transfer.freeze`."""
        self.post(lambda: take(self._transfer))

    def adopt(self, clients: Sequence[Client], done: Callable[[], None]) -> None:
        """Serve frozen clients, maybe of another process; then call `done` in this thread.

        A client that is not `counted` is turned away.  Before `start`: those clients come first.
        """
        self.post(partial(self._transfer.adopt, clients))
        self.post(done)

    def finish(self) -> None:
        """Close all clients and end within `FINISH_TIMEOUT`."""
        self.post(self._finish)

    def close(self) -> None:
        """Close the descriptors of a thread that has ended or was never started."""
        self._poller.close()

    # The loop.

    def run(self) -> None:
        """Serve until finished; keep an exception in `failure`."""
        try:
            self._poller.run_posted()
            if self._stream_farewell:
                self._stream_farewell.input.run(self._on_event, self._run_timers)
            else:
                self._serve()
        except BaseException as failure:
            self.failure = failure
        finally:
            for client in self._clients.present():
                client.sock.close()
            self._changed()

    def _serve(self) -> None:
        poller = self._poller
        poll = poller.epoll.poll
        sources = poller.sources
        on_event = self._on_event
        timers = poller.timers
        clients = self._clients
        view = clients.view
        length, data = -1, view
        client: Any
        while not clients.finished:
            ready = poll(-1 if timers.next == inf else poller.timeout(), EVENTS_PER_TURN)
            poller.now = now = monotonic()
            echoed = 0
            for fd, event in ready:
                client = sources[fd]
                if client.phase:
                    on_event[client.phase](client, event)
                    view, poll = clients.view, poller.epoll.poll
                    continue
                try:
                    received = client.sock.recv_into(view)
                except OSError as error:
                    clients.lost(client, error)
                    continue
                if received != length:
                    if not received:
                        clients.close(client, "closed by the client")
                        continue
                    length, data = received, view[:received]
                try:
                    sent = client.sock.send(data)
                except BlockingIOError:
                    sent = 0
                except OSError as error:
                    clients.lost(client, error)
                    continue
                client.last = now
                client.echoed += sent
                echoed += sent
                if sent != received:
                    clients.keep_unsent(client, data[sent:])
                    view = clients.view
            if echoed:
                clients.echoed += echoed
                if clients.activity_awaited:
                    clients.report_activity()
            if timers.next <= now:
                self._run_timers()
                view = clients.view

    def _run_timers(self) -> None:
        for source in self._poller.expired():
            self._on_due[source.phase](source)

    def _ignore(self, _source: EventSource, _event: int) -> None:
        """Ignore old news of a descriptor that is served no more, or news of a child's copy."""

    def _echo(self, client: Client, _event: int) -> None:
        if self._clients.echo(client):
            self._farewell.go_on(client)

    def _flush(self, client: Client, _event: int) -> None:
        if self._clients.flush(client):
            self._farewell.go_on(client)

    # The end.

    def _drain(self, parts_until: float) -> None:
        if self.draining:
            return
        self._clients.parts_until = parts_until
        self._acceptors.count_backlog()
        self._tell_present()
        self._acceptors.accept_backlog()
        self._tell_present()
        self.draining = True
        self._changed()

    def _tell_present(self) -> None:
        self._serve_arrived()
        self._poller.now = monotonic()
        self.goodbye.drain()

    def _serve_arrived(self) -> None:
        """Serve the bytes that had arrived when the drain began."""
        sources = self._poller.sources
        for fd, event in self._poller.epoll.poll(0, len(sources)):
            source: Any = sources[fd]
            if source.phase == phase.ACTIVE:
                self._echo(source, event)
            elif source.phase < phase.CLIENT_PHASES:
                self._on_event[source.phase](source, event)

    def _finish(self) -> None:
        self.draining = self._clients.draining = True
        handshakes = self._acceptors.refuse_connections()
        self._poller.now = monotonic()
        self._poller.schedule_after(EventSource(phase.ENDING), FINISH_TIMEOUT)
        self._clients.awaiting_handshakes = True
        self._poller.schedule_after(EventSource(phase.HANDSHAKING), handshakes)
        self._clients.close_at_deadline()
        self._acceptors.accept_last()

    def _end_handshakes(self, _source: EventSource) -> None:
        self._acceptors.accept_late()
        self._clients.stop_awaiting_handshakes()

    def _end(self, _source: EventSource) -> None:
        self._clients.finished = True
