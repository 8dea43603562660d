"""Handshakes of TLS: what happens to a client between its accept and its first byte.

The client is counted, limited and logged from its accept on, as any other.  It is SECURING until
its handshake is done, for `HANDSHAKE_TIMEOUT` at most.

The I/O thread waits for the bytes, and `graced.loop.handshaker` computes.  A client whose step is
due or under way is out of the epoll set's sight (EPOLLONESHOT).
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from select import EPOLLIN, EPOLLONESHOT

from graced.loop.admission import NoCapacityError
from graced.loop.phase import SECURING
from graced.sockets import closing
from graced.sockets.accepted import BareSocket
from graced.sockets.tls import is_end, why

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.loop.client import Client
    from graced.loop.clients import Clients
    from graced.loop.handshaker import Handshaker
    from graced.loop.idle import IdleSweep
    from graced.sockets.tls import TlsSocket

HANDSHAKE_TIMEOUT = 10.0
"""Seconds from the accept to the end of the handshake: two round trips, lost packets, and a small
device with many clients."""


class Handshakes:
    """The handshakes of one I/O thread.  For that thread alone."""

    def __init__(self, clients: Clients, handshaker: Handshaker, idle: IdleSweep) -> None:
        self._clients = clients
        self._poller = clients.poller
        self._handshaker = handshaker
        self._idle = idle
        self.tell_late: Callable[[Client], None] = lambda _client: None
        """Tells a client of the echo whose handshake is done in the drain."""
        self._stepping: set[Client] = set()
        """The clients whose step is due or under way."""

    def begin(self, client: Client) -> None:
        """Wait for the first bytes of the handshake.

        Raises `NoCapacityError` where the client is closed, as the epoll set has no room for it.
        """
        client.phase = SECURING
        try:
            self._poller.register(client.sock.fileno(), client, EPOLLIN | EPOLLONESHOT)
        except OSError as error:
            self._clients.close(client, str(error.strerror))
            raise NoCapacityError(error.strerror) from error
        self._poller.schedule_after(client, HANDSHAKE_TIMEOUT)

    def hear(self, client: Client, _event: int) -> None:
        """Have the next step made: bytes have come, or can be sent."""
        if client in self._stepping:
            # A new epoll set does not know that this client is out of sight.
            self._poller.modify(client.sock.fileno(), EPOLLONESHOT)
            return
        if isinstance(client.sock, BareSocket):
            # Not at the accept: a client that says nothing costs as little as one without TLS.
            client.sock = self._handshaker.secure(client.sock)
        self._stepping.add(client)
        sock: TlsSocket = client.sock  # type: ignore[assignment]
        self._handshaker.step(sock, partial(self._post, client))

    def _post(self, client: Client, result: int | Exception) -> None:
        # In the thread of handshakes, which may be late.
        if not self._clients.finished:
            self._poller.post(partial(self._stepped, client, result))

    def _stepped(self, client: Client, result: int | Exception) -> None:
        self._stepping.discard(client)
        if client.phase != SECURING:
            # Closed meanwhile; the step has closed the descriptor.
            return
        if isinstance(result, Exception):
            self._fail(client, result)
        elif result:
            self._poller.modify(client.sock.fileno(), result | EPOLLONESHOT)
        else:
            self._serve(client)

    def _serve(self, client: Client) -> None:
        client.due = 0.0
        client.last = self._poller.now
        self._clients.resume(client, self._clients.first_phase(client))
        self._idle.expect(client)
        if self._clients.streams:
            self._clients.streams.connect(client)
        elif self._clients.draining:
            self.tell_late(client)

    def _fail(self, client: Client, error: Exception) -> None:
        """End a connection without TLS.  OpenSSL has told the client why, in an alert."""
        if is_end(error):
            reason = "closed by the client"
        elif isinstance(error, ConnectionError):
            reason = "reset by the client"
        else:
            reason = why(error)
            # No probe: it has sent bytes.
            self._clients.log.hear(client)
        with suppress(OSError):
            closing.part(client.sock)
        closing.discard(client.sock)
        self._clients.close(client, reason)

    def miss(self, client: Client) -> None:
        """Close a client whose handshake is not done in time."""
        self._clients.log.hear(client)
        self._clients.close(client, f"no TLS handshake within {HANDSHAKE_TIMEOUT:g} s")
