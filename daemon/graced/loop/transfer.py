"""The transfer of clients to another I/O thread or process: `freeze` here, `adopt` there."""

from __future__ import annotations

from itertools import islice
from select import EPOLLIN
from time import monotonic

from graced.loop.client import ARRIVED
from graced.loop.clients import RESTING
from graced.loop.phase import AWAITING_THREAD, GONE, WRITE_BLOCKED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from graced.loop.acceptor import Acceptors
    from graced.loop.client import Client
    from graced.loop.clients import Clients
    from graced.loop.idle import IdleSweep
    from graced.loop.interfaces import StreamClients

TRANSFERABLE = RESTING | {WRITE_BLOCKED, AWAITING_THREAD}
"""The phases in which a client can be transferred."""


class Transfer:
    """Takes clients out of an I/O thread, and takes clients in that come from another."""

    def __init__(self, clients: Clients, acceptors: Acceptors, idle: IdleSweep) -> None:
        self._clients = clients
        self._acceptors = acceptors
        self._idle = idle
        self._poller = clients.poller
        self._admission = clients.admission
        self._handlers = clients.handlers
        self._mirror = clients.mirror
        restoring = clients.streams.kind if clients.streams else self._handlers
        self._arrivals = acceptors.arrivals
        self._can_restore = bool(restoring and restoring.movable)

    def freeze(self, most: int | None = None, stay: Container[int] = ()) -> list[Client]:
        """Abandon the listeners, stop serving all clients that can be transferred; return them.

        With `most` no more clients than that; all others are served as before, and new ones too.
        `stay`: descriptors of clients that are not to be transferred.
        """
        if most is None:
            self._acceptors.abandon_all()
        frozen = self._freeze_clients(most, stay)
        if self._arrivals:
            frozen += self._arrivals.freeze(None if most is None else most - len(frozen))
        return frozen

    def _freeze_clients(self, most: int | None, stay: Container[int]) -> list[Client]:
        # A client that is told would be told again, and of TLS no other process has the keys.
        present = (each for each in self._clients.present() if not (each.told or each.has_tls))
        movable = [each for each in present if each.sock.fileno() not in stay]
        if streams := self._clients.streams:
            return self._freeze(streams, movable, most)
        frozen = [*islice((each for each in movable if each.phase in TRANSFERABLE), most)]
        self._poller.unregister_all([client.sock.fileno() for client in frozen])
        for client in frozen:
            self._clients.count_unsent(-len(client.unsent))
            client.phase = GONE
            self._poller.timers.cancel(client)
            if self._clients.waiting:
                self._clients.waiting.remove(client)
            if client.counted:
                self._admission.leave(client.host)
            client.counted = True
        return frozen

    def _freeze(
        self, streams: StreamClients, movable: Sequence[Client], most: int | None
    ) -> list[Client]:
        tried = map(streams.freeze, movable)
        frozen = [*islice((each for each in tried if each), most)]
        # One call for all, as above: threads of a handler may compute.
        self._poller.unregister_all([client.sock.fileno() for client in frozen])
        for client in frozen:
            self._admission.leave(client.host)
        return frozen

    def adopt(self, clients: Sequence[Client]) -> None:
        """Serve frozen clients; turn away a client that is not counted or cannot be served."""
        self._poller.now = monotonic()
        streams = self._clients.streams
        if self._arrivals:
            clients = [each for each in clients if not self._arrivals.adopt(each)]
        for client in map(streams.adopt, clients) if streams else clients:
            client.timer = 0.0
            client.sock.setblocking(False)
            if client.saved is not None and not self._can_restore:
                client.counted = False
            if client.host.startswith(ARRIVED):
                # Connections of its proxy have no header any more: the configuration has changed.
                client.counted = False
            refusal = client.counted and self._admission.enter(client.host, adopted=True)
            if refusal:
                client.counted = False
                self._acceptors.count_refusal(client, refusal)
            if client.counted:
                self._serve(client)
            else:
                self._acceptors.turn_away(client)

    def _serve(self, client: Client) -> None:
        self._clients.log.go_on(client)
        client.phase = self._clients.first_phase(client)
        if client.host.startswith("unix:"):
            self._acceptors.reserve_number(client.port)
        self._idle.expect(client)
        unsent, client.unsent = client.unsent, b""
        if self._mirror:
            self._mirror.add(client)
        try:
            self._poller.register(client.sock.fileno(), client, EPOLLIN)
            if self._clients.silence:
                # Fails where the client has reset the connection meanwhile: no handler starts then.
                client.sock.getpeername()
                self._clients.silence.expect(client)
        except OSError as error:
            self._clients.lost(client, error)
            return
        if self._clients.streams:
            self._clients.streams.connect(client, unsent)
        elif unsent and not (self._handlers and self._handlers.sends_unsent):
            self._clients.keep_unsent(client, memoryview(unsent))
        elif self._handlers and (self._handlers.greet or client.saved is not None):
            client.unsent = unsent
            self._clients.start_handler(client, 0)
