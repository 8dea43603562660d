"""Connections from proxies: the header of the PROXY protocol says who the client is.

Between its accept and the end of its header a connection is an *arrival*, and no client yet: no
limit counts it, no handler has it, and nothing is logged of it.  Nothing waits for a header: the
bytes are taken as they come, and those behind the header stay in the socket, for the handler.
Arrivals that a header does not come from in time are refused.
"""

from __future__ import annotations

import sys
from select import EPOLLIN
from socket import AF_UNIX, MSG_PEEK

from graced.loop.client import ARRIVED, Client
from graced.loop.event_source import EventSource
from graced.loop.phase import ARRIVING, GONE
from graced.sockets.accepted import is_tls
from graced.sockets.address import format_address, plain_host
from graced.sockets.proxy_header import LONGEST_HEADER, ProxyHeader, ProxyHeaderError, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket

    from graced.loop.clients import Clients
    from graced.loop.proxies import Proxies

HEADER_TIMEOUT = 10.0
"""Seconds in which a header has to come.  The specification asks for three at least, after which a
segment that is lost comes again; a busy proxy may need more."""


class Arrival(EventSource):
    """A connection from a proxy, until its header has come."""

    __slots__ = ("header", "host", "port", "sock")

    def __init__(self, sock: socket, host: str, port: int, header: bytes) -> None:
        super().__init__(ARRIVING)
        self.sock = sock
        self.host = host
        """The address of the proxy; or ``unix:PATH`` of the listener."""
        self.port = port
        self.header = header
        """The bytes of the header so far."""


class Arrivals:
    """The arrivals of one I/O thread.  For that thread alone."""

    def __init__(
        self,
        clients: Clients,
        proxies: Proxies,
        *,
        most: int,
        admit: Callable[..., None],
        refuse: Callable[[Client, str], None],
    ) -> None:
        """`most`: connections that may be open without being counted as clients.

        `admit` serves a client, or raises an exception where it is closed for want of capacity;
        `refuse` closes a client that is not counted, for a reason.
        """
        self._clients = clients
        self._poller = clients.poller
        self._proxies = proxies
        self._most = most
        self._admit = admit
        self._refuse = refuse
        self._present: set[Arrival] = set()

    def expects(self, host: str) -> bool:
        """Whether a header is waited for in connections of this host: not after the deadline."""
        return not self._clients.at_deadline and self._proxies.has(host)

    def accept(self, sock: socket, host: str, port: int, header: bytes = b"") -> None:
        """Admit the client of a connection whose header is there, as it mostly is; or wait for it.

        `header`: what was read of it before.  An arrival that the epoll set has no room for is
        refused.
        """
        arrival = Arrival(sock, host, port, header)
        self.hear(arrival)
        if arrival.phase == GONE:
            return
        if self._clients.uncounted >= self._most:
            self._end(arrival, f"{self._most} connections have no PROXY header yet")
            return
        try:
            self._poller.register(arrival.sock.fileno(), arrival, EPOLLIN)
        except OSError as error:
            self._end(arrival, str(error.strerror))
            return
        self._present.add(arrival)
        self._clients.arriving += 1
        self._poller.schedule_after(arrival, HEADER_TIMEOUT)

    def hear(self, arrival: Arrival) -> None:
        """Take what has come of the header; admit the client at its end."""
        try:
            data = _peek(arrival.sock)
            header = self._header(arrival, data)
            # All of the data belong to a header that has not ended: to leave them would wake us.
            taken = arrival.sock.recv(header.size - len(arrival.header) if header else len(data))
        except BlockingIOError:
            return
        except ProxyHeaderError as error:
            self._end(arrival, str(error))
            return
        arrival.header += taken
        if header:
            self._begin(arrival, header)

    @staticmethod
    def _header(arrival: Arrival, data: bytes) -> ProxyHeader | None:
        if data:
            return parse(arrival.header + data)
        if arrival.header:
            raise ProxyHeaderError("half a PROXY header")
        # A check of the proxy, whether anybody listens.
        return ProxyHeader(size=0, client=None)

    def _begin(self, arrival: Arrival, header: ProxyHeader) -> None:
        self._forget(arrival)
        proxy = (arrival.host, arrival.port)
        host, port = header.client or proxy
        client = self._clients.new(arrival.sock, sys.intern(host), port, header.size)
        # A proxy that checks our health names nobody, or itself: HAProxy in version 1.
        self._admit(client, client.peer, trusted=(host, port) == proxy)

    def miss(self, arrival: Arrival) -> None:
        """Refuse a connection whose header has not come in time."""
        self._end(arrival, f"no PROXY header within {HEADER_TIMEOUT:g} s")

    def _end(self, arrival: Arrival, reason: str) -> None:
        self._refuse(self._uncounted(arrival), f"proxy_protocol: {reason}")

    def _uncounted(self, arrival: Arrival) -> Client:
        """The connection as a client that cannot be served."""
        self._forget(arrival)
        client = self._clients.new(arrival.sock, arrival.host, arrival.port)
        client.counted = False
        return client

    def _forget(self, arrival: Arrival) -> None:
        """Wait no more for a connection, which stays open."""
        arrival.phase = GONE
        if arrival in self._present:
            self._present.discard(arrival)
            self._clients.arriving -= 1
            self._poller.timers.cancel(arrival)
            self._poller.unregister(arrival.sock.fileno())

    # The end, here and in the process.

    def take(self) -> list[Client]:
        """Take out all connections, as clients that cannot be served."""
        return [self._uncounted(arrival) for arrival in list(self._present)]

    def freeze(self, most: int | None = None) -> list[Client]:
        """Take out connections, to be handed over, with the header so far in the host.

        `most`: not all, but so many.  Where TLS follows, the next process would not know of it.
        """
        arrivals = [each for each in self._present if not is_tls(each.sock)][:most]
        for each in arrivals:
            self._forget(each)
        now = self._poller.now
        return [
            Client(each.sock, f"{ARRIVED}{each.header.hex()}", each.port, GONE, now)
            for each in arrivals
        ]

    def adopt(self, client: Client) -> bool:
        """Wait for the rest of the header of a frozen connection.

        False: `client` is one that had all of its header.
        """
        if not client.host.startswith(ARRIVED):
            return False
        client.sock.setblocking(False)
        try:
            host, port = _peer_of(client.sock)
            header = bytes.fromhex(client.host.removeprefix(ARRIVED))
        except (OSError, ValueError):
            # The proxy has gone; or the state is damaged.
            client.sock.close()
        else:
            self.accept(client.sock, host, port or client.port, header)
        return True


def _peek(sock: socket) -> bytes:
    """The bytes that have arrived; none at the end.  Raises `BlockingIOError`."""
    try:
        return sock.recv(LONGEST_HEADER, MSG_PEEK)
    except BlockingIOError:
        raise
    except OSError:
        # The proxy has reset the connection, and the kernel says so once.
        return b""


def _peer_of(sock: socket) -> tuple[str, int]:
    """Host and port of a proxy, in the notation of the log; of a Unix client the listener."""
    if sock.family == AF_UNIX:
        return format_address(sock.getsockname()), 0
    peer = sock.getpeername()
    return plain_host(peer[0]), peer[1]
