"""Acceptors: how clients come into an I/O thread, and how a client is refused or turned away."""

from __future__ import annotations

import errno
import sys
from select import EPOLLEXCLUSIVE, EPOLLIN
from socket import AF_UNIX, socket

from graced.log import events
from graced.loop.admission import NoCapacityError, Refusals
from graced.loop.client import Client
from graced.loop.event_source import EventSource
from graced.loop.phase import GONE, LISTENING, SECURING, TOLD
from graced.sockets import closing
from graced.sockets.address import plain_host
from graced.sockets.tcp_info import queue_length

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from graced.loop.clients import Clients
    from graced.loop.handshakes import Handshakes
    from graced.loop.idle import IdleSweep
    from graced.loop.interfaces import Listener
    from graced.loop.proxied import Arrival, Arrivals

NO_CAPACITY = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""accept(2) failed for want of a resource that others will give back."""
CLIENT_LOST = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPERM,
        errno.EPROTO,
        errno.ENETDOWN,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
    }
)
"""accept(2) failed for this client; the next client may be fine, see `MAX_LOSSES`."""

ACCEPTS_PER_TURN = 2
"""Clients that an acceptor accepts in a row: a storm of connects cannot starve the others."""
UNKNOWN_QUEUE = 4096
"""Clients that are accepted from a queue whose length is unknown: the default of
net.core.somaxconn, which caps the queue, listen(2)."""
ACCEPT_PAUSE = 0.5
"""Seconds between two tries to accept when there are no descriptors or no memory."""
REPORT_INTERVAL = 1.0
"""Seconds between two log records about refused clients."""
MAX_LINGERING = 256
"""Refused clients that may linger at once; further refused clients are closed at once."""
MAX_LOSSES = 64
"""Failures of accept(2) in a row at which an acceptor pauses: the cause is then not the clients,
but for example a seccomp filter that forbids the call."""


class Acceptor(EventSource):
    """A listener in the epoll set of an I/O thread."""

    __slots__ = ("listener", "losses", "paused", "queued")

    def __init__(self, listener: Listener) -> None:
        super().__init__(LISTENING)
        self.listener = listener
        self.paused = False
        """Whether the listener is out of the epoll set for a while, see `NoCapacityError`."""
        self.losses = 0
        """Clients that were lost in a row, see `CLIENT_LOST`."""
        self.queued = 0
        """Clients in the queue of the listener at the last `count_queue`."""

    def count_queue(self) -> None:
        """Note how many clients are queued: later clients cannot prolong a loop over the queue."""
        length = queue_length(self.listener.sock)
        self.queued = UNKNOWN_QUEUE if length is None else length

    def fileno(self) -> int:
        """The listener's descriptor."""
        return self.listener.sock.fileno()

    def arrivals(self, most: int) -> Iterator[tuple[socket, Any]]:
        """Accept up to `most` clients; yield each socket with its address.

        Raises `NoCapacityError`, and `OSError` for an error that accept(2) does not promise.
        """
        for _ in range(most):
            try:
                arrival = self.listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EINVAL:
                    # A Unix socket that is shut, with an empty queue.
                    return
                if error.errno in NO_CAPACITY:
                    raise NoCapacityError(error.strerror) from error
                if self.listener.fallible:
                    continue
                if error.errno not in CLIENT_LOST:
                    raise
                self.losses += 1
                if self.losses >= MAX_LOSSES:
                    raise NoCapacityError(error.strerror) from error
            else:
                self.losses = 0
                yield arrival


class Acceptors:
    """The acceptors of one I/O thread.  For that thread alone."""

    def __init__(
        self, listeners: Iterable[Listener], clients: Clients, idle: IdleSweep, *, shared: bool
    ) -> None:
        """`shared`: other I/O threads accept from the same listeners."""
        self._acceptors = [Acceptor(listener) for listener in listeners]
        self._clients = clients
        self._idle = idle
        self._poller = clients.poller
        self._admission = clients.admission
        self._policy = clients.policy
        self._access = clients.policy.access
        self._drops = bool(self._access and not self._access.tells)
        self._handlers = clients.handlers
        self._mirror = clients.mirror
        self._interest = EPOLLIN | (EPOLLEXCLUSIVE if shared else 0)
        self._refusals = Refusals()
        self.arrivals: Arrivals | None = None
        """Connections whose clients are told by proxies, if there are proxies."""
        if proxies := clients.policy.proxies:
            # Where there is no proxy a start does without this module.
            from graced.loop.proxied import Arrivals  # noqa: PLC0415

            self.arrivals = Arrivals(
                clients, proxies, most=MAX_LINGERING, admit=self._admit_client, refuse=self._refuse
            )
        self.handshakes: Handshakes | None = None
        """Handshakes of TLS, if a listener asks for them."""
        if handshaker := clients.policy.handshaker:
            from graced.loop.handshakes import Handshakes  # noqa: PLC0415

            self.handshakes = Handshakes(clients, handshaker, idle)
        self._next_unix_number = 1
        self._serving_backlog = False
        """Whether the clients that are accepted now have connected before the drain."""
        for acceptor in self._acceptors:
            self._open(acceptor)

    def enter(self, on_event: Any, on_due: Any, tell_late: Callable[[Client], None]) -> None:
        """Enter into the tables of the thread what is only done where there are handshakes."""
        if self.handshakes:
            on_event[SECURING], on_due[SECURING] = self.handshakes.hear, self.handshakes.miss
            self.handshakes.tell_late = tell_late

    def add(self, listeners: Iterable[Listener]) -> None:
        """Accept clients from further listeners, unless the drain has begun."""
        for listener in listeners:
            acceptor = Acceptor(listener)
            self._acceptors.append(acceptor)
            try:
                self._open(acceptor)
            except OSError as error:
                acceptor.paused = True
                events.ACCEPT_PAUSED(reason=error.strerror, seconds=ACCEPT_PAUSE)
                self._poller.schedule_after(acceptor, ACCEPT_PAUSE)

    def remove(self, listener: Listener) -> None:
        """Accept no more clients from a listener."""
        for acceptor in [each for each in self._acceptors if each.listener is listener]:
            self._abandon(acceptor)
            self._acceptors.remove(acceptor)

    def _open(self, acceptor: Acceptor) -> None:
        self._poller.register(acceptor.fileno(), acceptor, self._interest)

    # Accepting.

    def accept(self, acceptor: Acceptor, _event: int, most: int = ACCEPTS_PER_TURN) -> None:
        """Accept up to `most` clients."""
        try:
            for sock, address in acceptor.arrivals(most):
                self._admit(acceptor, sock, address)
        except NoCapacityError as error:
            self._pause(acceptor, str(error))

    def count_backlog(self) -> None:
        """Note how many clients have connected before the drain.

        The queue of a listener that belongs to the service manager is for the next process.
        """
        for acceptor in self._acceptors:
            if acceptor.listener.passed:
                self._abandon(acceptor)
            elif acceptor.phase == LISTENING:
                acceptor.count_queue()

    def accept_backlog(self) -> None:
        """Accept and serve the clients that `count_backlog` has counted."""
        self._serving_backlog = True
        self._accept_queued()
        self._serving_backlog = False

    def _accept_queued(self) -> None:
        for acceptor in self._acceptors:
            if acceptor.phase == LISTENING:
                self.accept(acceptor, 0, acceptor.queued)

    def refuse_connections(self) -> float:
        """Refuse new connections; the clients in the queue can still be accepted.

        Return the seconds in which handshakes that have begun may bring more clients.
        """
        wait = 0.0
        for acceptor in self._acceptors:
            if acceptor.phase == LISTENING:
                wait = max(wait, acceptor.listener.refuse_connections())
                acceptor.count_queue()
        return wait

    def accept_late(self) -> None:
        """Accept the clients whose handshakes ended after new connections were refused.

        An acceptor that is paused has not accepted them, nor one with many of them.
        """
        for acceptor in self._acceptors:
            if acceptor.phase == LISTENING:
                acceptor.count_queue()
        self._accept_queued()

    def accept_last(self) -> None:
        """Accept the clients that were queued when new connections were refused."""
        self._accept_queued()
        for acceptor in self._acceptors:
            if acceptor.listener.sock.family == AF_UNIX:
                # A shut Unix socket stays readable, so epoll would report it for ever.
                self._abandon(acceptor)
        for client in self.arrivals.take() if self.arrivals else ():
            self.turn_away(client)

    def _pause(self, acceptor: Acceptor, reason: str) -> None:
        if not acceptor.paused:
            acceptor.paused = True
            self._poller.unregister(acceptor.fileno())
            events.ACCEPT_PAUSED(reason=reason, seconds=ACCEPT_PAUSE)
        self._poller.schedule_after(acceptor, ACCEPT_PAUSE)

    def retry(self, acceptor: Acceptor) -> None:
        """Try to accept again, after a pause."""
        self.accept(acceptor, 0)
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

    def abandon_all(self) -> None:
        """Leave all listeners alone: the next process serves the clients that queue there."""
        for acceptor in self._acceptors:
            self._abandon(acceptor)

    def open_all(self) -> None:
        """Accept again from the listeners that were left alone."""
        abandoned = [each for each in self._acceptors if each.phase == GONE]
        self._acceptors = [each for each in self._acceptors if each.phase != GONE]
        self.add(each.listener for each in abandoned)

    def _abandon(self, acceptor: Acceptor) -> None:
        if acceptor.phase == GONE:
            return
        acceptor.due = 0.0
        acceptor.phase = GONE
        if not acceptor.paused:
            self._poller.unregister(acceptor.fileno())

    def reserve_number(self, number: int) -> None:
        """Give no other Unix client the number of an adopted client."""
        self._next_unix_number = max(self._next_unix_number, number + 1)

    # Admitting.

    def _admit(self, acceptor: Acceptor, sock: socket, address: Any) -> None:
        sock.setblocking(False)
        if isinstance(address, tuple):
            host, port = sys.intern(plain_host(address[0])), address[1]
        else:
            host, port = acceptor.listener.name, self._next_unix_number
            self._next_unix_number += 1
        if self.arrivals and self.arrivals.expects(host):
            self.arrivals.accept(sock, host, port)
        else:
            self._admit_client(self._clients.new(sock, host, port), address)

    def _admit_client(self, client: Client, address: Any, *, trusted: bool = False) -> None:
        """Serve a client, if it may be served.  `trusted`: it is a proxy, and no rule holds."""
        sock, host = client.sock, client.host
        denial = self._access.denial(host) if self._access and not trusted else ""
        refusal = denial or self._admission.enter(host)
        if refusal:
            client.counted = False
            self._refuse(client, refusal, tell=not (denial and self._drops))
            return
        self._clients.log.begin(client, greets=bool(self._handlers and self._handlers.greet))
        if self._clients.activity_awaited:
            self._clients.report_activity()
        if self._clients.draining and not self._serving_backlog:
            self.turn_away(client)
            return
        if self.handshakes and client.has_tls:
            self.handshakes.begin(client)
            return
        if self._mirror:
            self._mirror.add(client)
        self._idle.expect(client)
        client.phase = self._clients.first_phase(client)
        if self._handlers and self._handlers.greet and self._handlers.reserve():
            self._handlers.start(client)
            return
        if self._clients.silence:
            self._clients.silence.expect(client)
        try:
            self._poller.register(sock.fileno(), client, EPOLLIN)
        except OSError as error:
            # The kernel has no room for one more in the set (epoll_ctl(2): ENOMEM, ENOSPC).
            self._clients.close(client, str(error.strerror))
            raise NoCapacityError(error.strerror) from error
        if self._handlers and self._handlers.greet:
            self._clients.start_handler(client, 0)
        elif self._clients.streams:
            self._clients.streams.connect(client)

    def _refuse(self, client: Client, reason: str, *, tell: bool = True) -> None:
        self.count_refusal(client, reason)
        if not tell:
            closing.reset(client.sock)
        elif self._clients.uncounted < MAX_LINGERING:
            self.turn_away(client)
        else:
            client.sock.close()

    def count_refusal(self, client: Client, reason: str) -> None:
        """Count a refused client, and report it soon and together with others."""
        self._admission.refuse(reason)
        self._refusals.add(client, reason)
        if not self._refusals.due:
            self.report_refusals(self._refusals)

    def report_refusals(self, refusals: Refusals) -> None:
        """Log the refused clients since the last report, if there were any."""
        if refusals.report():
            self._poller.schedule_after(refusals, REPORT_INTERVAL)

    # Connections from proxies.

    def hear_header(self, arrival: Arrival, _event: int) -> None:
        """Take what has come of the header of a connection."""
        assert self.arrivals
        try:
            self.arrivals.hear(arrival)
        except NoCapacityError:
            # Its client is closed, and the log says why.
            return

    def miss_header(self, arrival: Arrival) -> None:
        """Refuse a connection whose header has not come in time."""
        assert self.arrivals
        self.arrivals.miss(arrival)

    # Turning away: a lingering close.

    def turn_away(self, client: Client) -> None:
        """Send unsent bytes, the farewell and end of file to a client that cannot be served.

        Bytes that the kernel does not take at once are dropped.  The client lingers: closing now
        would send RST if input is unread, and RST destroys bytes that the client has not read.
        """
        # Without a handshake a client in TLS understands no word.
        farewell = b"" if client.told or client.has_tls else self._policy.farewell or b""
        client.told = TOLD
        last_words = client.unsent + farewell
        client.unsent = b""
        try:
            self._poller.register(client.sock.fileno(), client, EPOLLIN)
        except OSError as error:
            self._clients.lost(client, error)
            return
        self._clients.linger(client, last_words)
