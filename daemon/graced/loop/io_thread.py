"""The hot loop: one thread, one epoll set, and clients that nobody else touches.

What makes it fast
    A round trip of an echo is three system calls (epoll_wait, recv, send), and at 160,000 round
    trips a second there are six microseconds for all of it, of which the kernel takes five.  So
    what is done for a message is what cannot be left out: look the client up in a list indexed by
    its descriptor, compare its phase with zero, read into the one buffer of the thread, send from
    it, and write down how much and when.  There is no lock, since the thread alone owns its
    clients; no allocation, since the slice of the buffer is kept while messages are equally long;
    no timer to move, since timeouts are found by looking at `last` when they may be over; no log
    record, since whose messages are logged has a phase of its own.  The clock is read once for all
    the clients that one epoll_wait returns.  Everything that happens less often than once
    a message is behind `phase`, in two tables: what to do about a descriptor, and what to do when
    a point in time has come.

    A second such thread gains nothing while there is a GIL: each would wait for the other's
    system calls to end, up to 5 ms at a time.

What makes it safe
    What the main thread asks for is done by this thread, between two messages (`post`).  A client
    that does not take its bytes is not read until it has: it costs one buffer at most, and less
    when many do it (`UNSENT_BUDGET`).  Interest in a descriptor is changed only when it has news
    that cannot be used, so five thousand idle clients are told the farewell by five thousand sends
    and nothing else.

The farewell stands alone
    A client that compares what it receives with the farewell must find it by itself, with no echo
    before or behind it in the same read.  When the drain begins whatever has arrived is echoed;
    then nobody is read.  Who has been quiet for the gap is told at once (FAREWELL_SENT), the
    others when they have (FAREWELL_PENDING).  The first bytes that arrive after that stay in the
    kernel for the gap (READ_PAUSED), so that a client which sends, then reads, has read the
    farewell by then.  After that it is served as before::

        ACTIVE ──drain──▶ FAREWELL_SENT ──bytes──▶ READ_PAUSED ──gap──▶ ACTIVE
           │                   ▲
           └─▶ FAREWELL_PENDING ─┘ gap       (and WRITE_BLOCKED whenever bytes cannot be sent)
"""

from __future__ import annotations

import sys
from contextlib import suppress
from itertools import count
from math import inf
from mmap import mmap
from select import EPOLLERR, EPOLLEXCLUSIVE, EPOLLHUP, EPOLLIN, EPOLLOUT
from socket import AF_UNIX, MSG_PEEK, SHUT_RDWR, SHUT_WR, socket
from threading import Thread
from time import monotonic

from graced.log import events
from graced.loop.acceptor import Acceptor, NoCapacityError
from graced.loop.admission import Admission, Refusals
from graced.loop.client import Client
from graced.loop.event_source import EventSource
from graced.loop.phase import (
    ACTIVE,
    ANSWERED,
    AWAITING_FIRST_BYTE,
    CLIENT_PHASES,
    ENDING,
    FAREWELL_PENDING,
    FAREWELL_SENT,
    GONE,
    LINGERING,
    LISTENING,
    PHASES,
    READ_PAUSED,
    REMINDING,
    REPORTING,
    SWEEPING,
    TOLD,
    TRACED,
    WAKING,
    WRITE_BLOCKED,
)
from graced.loop.policy import Policy
from graced.loop.poller import Poller

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Protocol

    from graced.handover.mirror import Mirror
    from graced.loop.acceptor import Listener

    class Handlers(Protocol):
        """Who talks to clients whose handler blocks (see `graced.handlers.pool.HandlerPool`)."""

        greet: bool
        """Whether they speak first: they then take a client when it is accepted, else when its
        first byte has come."""

        movable: bool
        """Whether they can go on with what they have saved in another process."""

        def take(self, client: Client) -> None:
            """Talk to the client from now on."""

        def remind(self) -> None:
            """Tell the clients that could not be told when the drain began."""

        def close_idle(self, timeout: float) -> float:
            """End the conversations in which nothing was said for `timeout` seconds.

            Return the longest silence in the others.
            """


BUFFER_SIZE = 1024 * 1024
"""Bytes read at once; a quarter of it was a fifth slower with one client that sends in bulk."""
SMALL_READ = 16 * 1024
UNSENT_BUDGET = 16 * 1024 * 1024
"""Bytes unsent to stalled clients from which on reads are small: the bound on what they can cost
is this and `SMALL_READ` for each client."""

EVENTS_PER_TURN = 85
"""Those for which malloc has memory at hand (1 KiB); more in a turn were 1 % slower."""
ACCEPTS_PER_TURN = 2
"""By each acceptor: a storm of connects cannot starve those who are served."""
LONGEST_BACKLOG = 65535

LINGER = 1.0
"""Seconds that a client has to close after everything was said."""
MOST_READS_AT_THE_END = 4
"""Of each client: the deadline is final also for one that sends as fast as it can."""
MAX_LINGERING = 256
"""Refused clients that may linger at once; those beyond are closed without."""
MOMENT = 0.25
"""Seconds within which this thread ends after `finish`."""
ACCEPT_PAUSE = 0.5
"""Seconds between two tries to accept when there are no descriptors or no memory."""
REMIND_INTERVAL = 1.0
"""Seconds between two tries to tell the client of a handler."""
REPORT_INTERVAL = 1.0
"""Seconds between two records about refused clients."""

RESTING = frozenset({ACTIVE, AWAITING_FIRST_BYTE, TRACED})
CARRIED = RESTING | {WRITE_BLOCKED}
"""The phases in which a client can be handed over."""


class IOThread(Thread):
    """Accepts and serves clients until `finish`.

    Constructed and started by the main thread.  Methods say which threads may call them; the
    counters may be read by any.
    """

    def __init__(
        self,
        listeners: Iterable[Listener],
        admission: Admission,
        policy: Policy,
        *,
        handlers: Handlers | None = None,
        mirror: Mirror | None = None,
        changed: Callable[[], None] = lambda: None,
        shared: bool = False,
        name: str = "io",
    ) -> None:
        """Without `handlers` clients are echoed.  `changed` is called when the last client has
        left a drain, when a probe was answered, when the thread is over, and when bytes move
        after `report_next_activity`.  `shared`: other I/O threads accept from the same listeners.
        """
        super().__init__(name=name, daemon=True)
        self.echoed = 0
        """Bytes that went back to clients."""
        self.departed = 0
        """Clients that left by themselves during the drain."""
        self.closed = 0
        """Clients that were closed at the deadline."""
        self.answered = 0
        """The number of the last `probe` that was answered."""
        self.draining = False
        """Whether the drain has begun: all who came before it are counted as clients."""
        self.failure: BaseException | None = None

        self._admission = admission
        self._policy = policy
        self._handlers = handlers
        self._mirror = mirror
        self._poller = Poller()
        self._changed = changed
        self._exclusive = EPOLLEXCLUSIVE if shared else 0
        self._resting = ACTIVE
        if handlers:
            self._resting = AWAITING_FIRST_BYTE
        elif events.RECEIVED.enabled():
            self._resting = TRACED

        # Anonymous memory: pages that no message has needed yet cost nothing.
        self._buffer = memoryview(mmap(-1, BUFFER_SIZE))
        self._view = self._buffer
        self._unsent = 0
        self._acceptors = [Acceptor(listener) for listener in listeners]
        self._unix_clients = count(1)
        self._report_move = False

        self._finished = False
        self._ending = EventSource(ENDING)
        self._sweep = EventSource(SWEEPING)
        self._reminder = EventSource(REMINDING)
        self._refusals = Refusals()
        self._lingering = 0
        self._tables()
        for acceptor in self._acceptors:
            self._open(acceptor)

    def _tables(self) -> None:
        on_event: dict[int, Callable[[Any, int], None]] = {
            ACTIVE: self._is_gone,
            AWAITING_FIRST_BYTE: self._hand_over,
            TRACED: self._echo,
            WRITE_BLOCKED: self._flush,
            FAREWELL_PENDING: self._do_not_read,
            FAREWELL_SENT: self._pause_reading,
            READ_PAUSED: self._do_not_read,
            LINGERING: self._discard,
            LISTENING: self._accept,
            WAKING: self._poller.woken,
            GONE: self._is_gone,
        }
        on_due: dict[int, Callable[[Any], None]] = {
            WRITE_BLOCKED: self._give_up,
            FAREWELL_PENDING: self._break_silence,
            READ_PAUSED: self._resume_reading,
            LINGERING: self._end_lingering,
            LISTENING: self._retry,
            SWEEPING: self._close_idle,
            REPORTING: self._report_refusals,
            REMINDING: self._insist,
            ENDING: self._end,
        }
        self._on_event = [on_event.get(phase, self._is_gone) for phase in range(PHASES)]
        self._on_due = on_due

    # What other threads ask for.

    def post(self, action: Callable[[], None]) -> None:
        """Have `action` called by this thread, soon.  Any thread may call."""
        self._poller.post(action)

    def probe(self, number: int) -> None:
        """Ask for a sign of life: `answered` becomes `number`.  Any thread may call."""

        def answer() -> None:
            self.answered = number
            self._changed()

        self.post(answer)

    def report_next_activity(self) -> None:
        """Call `changed` once, when bytes move or a client comes or goes.  Any thread may call."""
        self._report_move = True

    def drain(self) -> None:
        """Begin to say goodbye.  Any thread may call."""
        self.post(self._drain)

    def freeze(self, take: Callable[[list[Client]], None]) -> None:
        """Stop accepting, stop serving whoever is served here and hand them to `take`.

        Those who are being turned away are not among them.  Any thread may call.
        """
        self.post(lambda: take(self._freeze()))

    def adopt(self, clients: Sequence[Client], done: Callable[[], None]) -> None:
        """Go on to serve clients that a `freeze` has taken, maybe of another process.

        Those that are not `counted` are turned away.  Before the start of this thread: they come
        before anybody new.  Any thread may call.
        """

        def adopt() -> None:
            self._adopt(clients)
            done()

        self.post(adopt)

    def finish(self) -> None:
        """Close whoever is left and end within `MOMENT`.  Any thread may call."""
        self.post(self._finish)

    def close(self) -> None:
        """Give up what is open: when the thread is over, or was never started."""
        self._poller.close()

    # The loop.

    def run(self) -> None:
        """Serve until finished; a failure is kept in `failure`."""
        try:
            self._poller.do_what_was_posted()
            self._serve()
        except BaseException as failure:
            self.failure = failure
        finally:
            self._shut()

    def _serve(self) -> None:
        poller = self._poller
        poll = poller.epoll.poll
        clients = poller.subjects
        on_event = self._on_event
        timers = poller.timers
        view = self._view
        length, data = -1, view
        client: Any
        while not self._finished:
            ready = poll(-1 if timers.next == inf else poller.timeout(), EVENTS_PER_TURN)
            poller.now = now = monotonic()
            moved = 0
            for fd, event in ready:
                client = clients[fd]
                if client.phase:
                    on_event[client.phase](client, event)
                    view = self._view
                    continue
                try:
                    received = client.sock.recv_into(view)
                except OSError as error:
                    self._lost(client, error)
                    continue
                if received != length:
                    if not received:
                        self._close(client, "closed by the client")
                        continue
                    length, data = received, view[:received]
                try:
                    sent = client.sock.send(data)
                except BlockingIOError:
                    sent = 0
                except OSError as error:
                    self._lost(client, error)
                    continue
                client.last = now
                client.echoed += sent
                moved += sent
                if sent != received:
                    self._keep_unsent(client, data[sent:])
                    view = self._view
            if moved:
                self.echoed += moved
                if self._report_move:
                    self._moved()
            if timers.next <= now:
                self._do_what_is_due()
                view = self._view

    def _do_what_is_due(self) -> None:
        for subject in self._poller.due():
            self._on_due[subject.phase](subject)

    def _moved(self) -> None:
        if self._report_move:
            self._report_move = False
            self._changed()

    def _is_gone(self, _subject: EventSource, _event: int) -> None:
        """News of a descriptor that is nobody's, which epoll has had before it was left alone.

        Or later: a child that is about to exec has a copy.
        """

    # Clients come.

    def _open(self, acceptor: Acceptor) -> None:
        self._poller.watch(acceptor.fileno(), acceptor, EPOLLIN | self._exclusive)

    def _accept(self, acceptor: Acceptor, _event: int, most: int = ACCEPTS_PER_TURN) -> None:
        try:
            for sock, address in acceptor.arrivals(most):
                self._welcome(acceptor, sock, address)
        except NoCapacityError as error:
            self._pause(acceptor, str(error))

    def _pause(self, acceptor: Acceptor, reason: str) -> None:
        if not acceptor.paused:
            acceptor.paused = True
            self._poller.unwatch(acceptor.fileno())
            events.ACCEPT_PAUSED(reason=reason, seconds=ACCEPT_PAUSE)
        self._poller.after(acceptor, ACCEPT_PAUSE)

    def _retry(self, acceptor: Acceptor) -> None:
        self._accept(acceptor, 0)
        if acceptor.due:
            return
        try:
            self._open(acceptor)
        except OSError as error:
            # A client has taken its place in the set (fs.epoll.max_user_watches, epoll(7)).
            self._pause(acceptor, str(error.strerror))
            return
        acceptor.paused = False
        events.ACCEPT_RESUMED()

    def _welcome(self, acceptor: Acceptor, sock: socket, address: Any) -> None:
        sock.setblocking(False)
        if isinstance(address, tuple):
            host, port = sys.intern(address[0]), address[1]
        else:
            host, port = acceptor.listener.name, next(self._unix_clients)
        client = Client(sock, host, port, self._resting, self._poller.now)
        refusal = self._admission.enter(host)
        if refusal:
            client.counted = False
            self._refuse(client, refusal)
            return
        if self._policy.log_connections:
            events.CONNECTED(client=client)
        if self._report_move:
            self._moved()
        if self.draining:
            self._turn_away(client)
            return
        if self._mirror:
            self._mirror.add(client)
        self._expect_idleness()
        if self._handlers:
            client.address = address
            if self._handlers.greet:
                self._handlers.take(client)
                return
        try:
            self._poller.watch(sock.fileno(), client, EPOLLIN)
        except OSError as error:
            # The kernel has no room for one more in the set (epoll_ctl(2): ENOMEM, ENOSPC).
            self._close(client, str(error.strerror))
            raise NoCapacityError(error.strerror) from error

    def _expect_idleness(self) -> None:
        if self._policy.idle_timeout and not self._sweep.due:
            self._poller.after(self._sweep, self._policy.idle_timeout)

    def _count_refusal(self, client: Client, reason: str) -> None:
        self._refusals.add(client, reason)
        if not self._refusals.due:
            self._report_refusals(self._refusals)

    def _refuse(self, client: Client, reason: str) -> None:
        self._count_refusal(client, reason)
        if self._lingering < MAX_LINGERING:
            self._turn_away(client)
        else:
            client.sock.close()

    def _report_refusals(self, refusals: Refusals) -> None:
        if refusals.report():
            self._poller.after(refusals, REPORT_INTERVAL)

    def _turn_away(self, client: Client) -> None:
        """Tell a client that came too late or is too many, after what another process unsent it.

        It gets what it takes at once, and no RST that destroys it.
        """
        client.told = TOLD
        rest, client.unsent = client.unsent + self._policy.farewell, b""
        self._lingering += 1
        client.phase = LINGERING
        self._poller.after(client, LINGER)
        try:
            self._poller.watch(client.sock.fileno(), client, EPOLLIN)
            if rest:
                with suppress(BlockingIOError):
                    client.sock.send(rest)
            client.sock.shutdown(SHUT_WR)
        except OSError as error:
            self._lost(client, error)

    # Clients stay.

    def _echo(self, client: Client, _event: int) -> None:
        """What the loop does for a message, for whoever does not come from there."""
        received = self._receive(client)
        if received is None:
            return
        if not received:
            self._close(client, "closed by the client")
            return
        if self._resting == TRACED:
            events.RECEIVED(client=client, data=_excerpt(self._view[:received]))
        self._keep_unsent(client, self._view[:received])
        self._flush(client, 0)

    def _receive(self, client: Client) -> int | None:
        """Read into the view; None: there was nothing to read, or the client is lost."""
        try:
            return client.sock.recv_into(self._view)
        except OSError as error:
            self._lost(client, error)
            return None

    def _hand_over(self, client: Client, _event: int) -> None:
        assert self._handlers is not None
        self._poller.unwatch(client.sock.fileno())
        client.phase = GONE
        self._handlers.take(client)

    def _keep_unsent(self, client: Client, rest: memoryview) -> None:
        """Keep what the client does not take, and do not read it until it has."""
        client.unsent = bytes(rest)
        self._count_unsent(len(rest))
        client.phase = WRITE_BLOCKED
        self._poller.want(client.sock.fileno(), EPOLLOUT)
        self._await_progress(client)

    def _count_unsent(self, change: int) -> None:
        self._unsent += change
        self._view = self._buffer if self._unsent < UNSENT_BUDGET else self._buffer[:SMALL_READ]

    def _await_progress(self, client: Client) -> None:
        if self._policy.stall_timeout:
            self._poller.after(client, self._policy.stall_timeout)

    def _flush(self, client: Client, event: int) -> None:
        try:
            sent = client.sock.send(client.unsent)
        except OSError as error:
            self._lost(client, error)
            return
        client.last = self._poller.now
        client.echoed += sent
        self.echoed += sent
        self._count_unsent(-sent)
        client.unsent = client.unsent[sent:]
        if client.unsent:
            self._await_progress(client)
            return
        client.due = 0.0
        if client.told == TOLD:
            self._resume(client, FAREWELL_SENT)
        elif client.told == ANSWERED:
            self._resume(client, self._resting)
        elif self.draining and self._policy.farewell:
            self._await_silence(client)
        else:
            self._resume(client, self._resting)

    def _resume(self, client: Client, phase: int) -> None:
        client.phase = phase
        self._poller.want(client.sock.fileno(), EPOLLIN)

    def _give_up(self, client: Client) -> None:
        self._close(client, "stalled")

    def _close_idle(self, sweep: EventSource) -> None:
        """Close who has been idle for too long, and look again when the next may have been."""
        timeout = self._policy.idle_timeout
        oldest = self._poller.now
        for client in self._present():
            if client.phase in RESTING:
                if client.last + timeout <= self._poller.now:
                    self._close(client, "idle")
                else:
                    oldest = min(oldest, client.last)
        if self._handlers:
            oldest = min(oldest, self._poller.now - self._handlers.close_idle(timeout))
        if self._admission.clients:
            # A sixteenth later at most, so that many clients do not mean many sweeps.
            self._poller.timers.at(sweep, max(oldest + timeout, self._poller.now + timeout / 16))

    def _present(self) -> list[Client]:
        return [
            c for c in self._poller.subjects if isinstance(c, Client) and c.phase < CLIENT_PHASES
        ]

    # Clients move on.

    def _freeze(self) -> list[Client]:
        for acceptor in self._acceptors:
            self._abandon(acceptor)
        frozen = [client for client in self._present() if client.phase in CARRIED]
        for client in frozen:
            self._poller.unwatch(client.sock.fileno())
            self._count_unsent(-len(client.unsent))
            client.phase = GONE
            self._poller.timers.forget(client)
            self._admission.leave(client.host)
        return frozen

    def _adopt(self, clients: Sequence[Client]) -> None:
        self._poller.now = monotonic()
        for client in clients:
            client.timer = 0.0
            if client.saved is not None and not (self._handlers and self._handlers.movable):
                client.counted = False
            refusal = client.counted and self._admission.enter(client.host)
            if refusal:
                client.counted = False
                self._count_refusal(client, refusal)
                self._turn_away(client)
            elif not client.counted:
                self._turn_away(client)
            else:
                self._go_on(client)

    def _go_on(self, client: Client) -> None:
        client.phase = self._resting
        if client.sock.family == AF_UNIX:
            # Who comes now must not get a number that somebody has.
            self._unix_clients = count(max(client.port + 1, next(self._unix_clients)))
        if self._policy.idle_timeout:
            over = max(self._poller.now, client.last + self._policy.idle_timeout)
            if not self._sweep.due or over < self._sweep.due:
                self._poller.timers.at(self._sweep, over)
        unsent, client.unsent = client.unsent, b""
        if self._mirror:
            self._mirror.add(client)
        try:
            self._poller.watch(client.sock.fileno(), client, EPOLLIN)
            if self._handlers:
                client.address = client.sock.getpeername()
        except OSError as error:
            self._lost(client, error)
            return
        if unsent:
            self._keep_unsent(client, memoryview(unsent))
        elif self._handlers and (self._handlers.greet or client.saved is not None):
            self._hand_over(client, 0)

    # Clients are told.

    def _drain(self) -> None:
        if self.draining:
            return
        self._serve_who_is_here()
        self._poller.now = monotonic()
        self.draining = True
        if self._policy.farewell:
            for client in self._present():
                if client.phase in RESTING:
                    if self._poller.now - client.last >= self._policy.gap:
                        self._send_farewell(client)
                    else:
                        client.phase = FAREWELL_PENDING
                        self._poller.timers.at(client, client.last + self._policy.gap)
        if self._handlers:
            self._poller.after(self._reminder, self._policy.gap)
        self._changed()

    def _serve_who_is_here(self) -> None:
        """Whoever and whatever had arrived when the signal came is served before the farewell."""
        for acceptor in self._acceptors:
            if acceptor.listener.passed:
                self._abandon(acceptor)
            elif acceptor.phase == LISTENING:
                self._accept(acceptor, 0, LONGEST_BACKLOG)
        for fd, event in self._poller.epoll.poll(0, len(self._poller.subjects)):
            subject: Any = self._poller.subjects[fd]
            if subject.phase == ACTIVE:
                self._echo(subject, event)
            elif subject.phase < CLIENT_PHASES:
                self._on_event[subject.phase](subject, event)

    def _insist(self, reminder: EventSource) -> None:
        assert self._handlers is not None
        self._handlers.remind()
        self._poller.after(reminder, REMIND_INTERVAL)

    def _abandon(self, acceptor: Acceptor) -> None:
        """Leave a listening socket alone: the next start serves what queues there."""
        if acceptor.phase == GONE:
            return
        acceptor.due = 0.0
        acceptor.phase = GONE
        if not acceptor.paused:
            self._poller.unwatch(acceptor.fileno())

    def _await_silence(self, client: Client) -> None:
        client.phase = FAREWELL_PENDING
        self._poller.want(client.sock.fileno(), 0)
        self._poller.after(client, self._policy.gap)

    def _do_not_read(self, client: Client, event: int) -> None:
        if event & EPOLLERR:
            self._close(client, "reset by the client")
        elif event & EPOLLHUP:
            self._close(client, "closed by the client")
        else:
            self._poller.want(client.sock.fileno(), 0)

    def _break_silence(self, client: Client) -> None:
        self._poller.want(client.sock.fileno(), EPOLLIN)
        self._send_farewell(client)

    def _send_farewell(self, client: Client) -> None:
        farewell = self._policy.farewell
        client.told = TOLD
        try:
            sent = client.sock.send(farewell)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lost(client, error)
            return
        if sent == len(farewell):
            client.phase = FAREWELL_SENT
        else:
            self._keep_unsent(client, memoryview(farewell)[sent:])

    def _pause_reading(self, client: Client, event: int) -> None:
        try:
            here = bool(client.sock.recv(1, MSG_PEEK))
        except BlockingIOError:
            # Out-of-band data, which stays until it is really read.
            here = True
        except OSError as error:
            self._lost(client, error)
            return
        if here:
            client.phase = READ_PAUSED
            self._poller.want(client.sock.fileno(), 0)
            self._poller.after(client, self._policy.gap)
        else:
            self._close(client, "closed by the client")

    def _resume_reading(self, client: Client) -> None:
        client.told = ANSWERED
        self._resume(client, self._resting)

    # Clients go.

    def _lost(self, client: Client, error: OSError) -> None:
        if isinstance(error, BlockingIOError):
            return
        reset = isinstance(error, ConnectionError)
        self._close(client, "reset by the client" if reset else error.strerror or str(error))

    def _discard(self, client: Client, _event: int) -> None:
        if self._receive(client) == 0:
            self._end_lingering(client)

    def _end_lingering(self, client: Client) -> None:
        self._close(client, "turned away")

    def _close(self, client: Client, reason: str) -> None:
        if client.phase == LINGERING:
            self._lingering -= 1
        elif self._ending.due:
            self.closed += 1
        elif self.draining:
            self.departed += 1
        self._count_unsent(-len(client.unsent))
        client.unsent = b""
        client.phase = GONE
        self._poller.timers.forget(client)
        self._poller.forget(client.sock.fileno())
        if self._mirror or self._handlers:
            self._end_for_all(client)
        client.sock.close()
        if client.counted:
            self._admission.leave(client.host)
            if self._policy.log_connections:
                events.CLOSED(
                    client=client,
                    reason=reason,
                    bytes=client.echoed,
                    seconds=self._poller.now - client.since,
                )
            if self._report_move:
                self._moved()
            if self.draining and not self._admission.clients:
                self._changed()
        if self._ending.due and not self._lingering:
            self._finished = True

    def _end_for_all(self, client: Client) -> None:
        """The mirror or a handler's child may have a copy, which closing would leave open."""
        with suppress(OSError):
            client.sock.shutdown(SHUT_RDWR)
        with suppress(OSError):
            self._poller.unwatch(client.sock.fileno())
        if self._mirror:
            self._mirror.discard(client)

    def _finish(self) -> None:
        """Take in and tell who is in the queue, close everybody, and end."""
        self.draining = True
        for acceptor in self._acceptors:
            if acceptor.phase == LISTENING:
                acceptor.listener.shut()
                self._accept(acceptor, 0, LONGEST_BACKLOG)
                if acceptor.listener.sock.family == AF_UNIX:
                    # It has nothing more to say, and would say so again and again.
                    self._abandon(acceptor)
        self._poller.now = monotonic()
        self._poller.after(self._ending, MOMENT)
        for client in self._present():
            if client.phase != LINGERING:
                self._part(client)
        if not self._lingering:
            self._finished = True

    def _part(self, client: Client) -> None:
        """Close a client at the deadline: the last echo, the farewell if it is not told, FIN."""
        try:
            if self._echo_rest(client) and not client.told and self._policy.farewell:
                client.sock.send(self._policy.farewell)
            client.sock.shutdown(SHUT_WR)
            for _ in range(MOST_READS_AT_THE_END):
                if not client.sock.recv_into(self._buffer):
                    break
        except OSError:
            # It left first, or takes nothing, or has nothing more for us: it is closed anyway.
            pass
        self._close(client, "deadline")

    def _echo_rest(self, client: Client) -> bool:
        """Echo what had arrived by the deadline; return whether nothing is unsent now."""
        if client.unsent or self._resting == AWAITING_FIRST_BYTE:
            return not client.unsent
        try:
            for _ in range(MOST_READS_AT_THE_END):
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

    def _end(self, _subject: EventSource) -> None:
        self._finished = True

    def _shut(self) -> None:
        for client in self._present():
            client.sock.close()
        self._changed()


def _excerpt(data: memoryview, longest: int = 64) -> str:
    text = repr(bytes(data[:longest]))
    return text if len(data) <= longest else f"{text}... ({len(data)} bytes)"
