"""The farewell: how the clients of an I/O thread learn that the server is going offline.

The farewell stands alone: `graced.loop.io_thread` says why, and shows the phases.

Where no farewell is declared, a client of a blocking handler hears end of file.  This module tells
the clients that have no handler yet, `graced.handlers.goodbye` the others.

A client that cannot be served (`Acceptors.turn_away`), that remains at the deadline
(`Clients.close_at_deadline`) or that a refused start has inherited
(`graced.handover.inherited.Inherited.turn_away`) gets the farewell as its last words:
`graced.sockets.closing` has the one way in which the server ends a connection.
"""

from __future__ import annotations

from math import inf
from select import EPOLLERR, EPOLLHUP, EPOLLIN
from socket import MSG_PEEK

from graced.loop.clients import RESTING
from graced.loop.event_source import EventSource
from graced.loop.phase import (
    ANSWERED,
    AWAITING_FIRST_BYTE,
    AWAITING_THREAD,
    FAREWELL_PENDING,
    FAREWELL_SENT,
    GONE,
    INPUT_ENDED,
    NOT_TOLD,
    READ_PAUSED,
    REMINDING,
    TAKING_TURNS,
    TOLD,
    WRITE_BLOCKED,
)
from graced.sockets.unread import unread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from graced.loop.client import Client
    from graced.loop.clients import Clients

MAX_REMIND_INTERVAL = 1.0
MIN_REMIND_INTERVAL = 0.02
"""Seconds between two calls of `Handlers.say_goodbyes`."""


class Farewell:
    """Sends the farewell to each client once, with a gap of silence before and after."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._poller = clients.poller
        self._farewell = clients.policy.farewell
        self._gap = clients.policy.gap
        self._handlers = clients.handlers
        self._says_end_of_file = self._farewell is None and clients.handlers is not None
        self._reminder = EventSource(REMINDING)
        self._turns = clients.policy.new_turns()
        self._turn = EventSource(TAKING_TURNS)
        self._arrived: dict[Client, int] = {}
        """Bytes that had arrived when the drain began, and are to be echoed before the farewell."""

    def drain(self) -> None:
        """Tell all clients that have been quiet for the gap; the others wait.

        With a spread each client is told in its turn, and served as before until then.
        """
        self._clients.draining = True
        self._turns.begin(self._clients.parts_until)
        untold = [client for client in self._clients.present() if not client.told]
        for client in self._turns.give(untold):
            self._begin(client)
        if self._clients.waiting:
            self._release(self._turns.give(self._clients.waiting.drain()))
        self._await_turn()
        if self._handlers:
            self._poller.schedule_after(self._reminder, self._gap)

    def tell(self, client: Client) -> None:
        """Tell a client alone, if it is at rest now.

        The handler of a client that has sent something is told instead, by `Present.tell`.
        """
        if client.phase not in RESTING or client.told:
            return
        self._count_arrived(client)
        if client in self._arrived:
            self._echo_arrived(client)
        elif not (self._handlers and unread(client.sock)):
            self._tell(client)

    def forget(self, client: Client) -> None:
        """Forget a client that was told alone and has gone, or is closed."""
        self._arrived.pop(client, None)

    def _begin(self, client: Client) -> None:
        if client.phase in RESTING:
            self._tell(client)
        elif client.phase == WRITE_BLOCKED:
            self._count_arrived(client)

    def _release(self, waiting: Iterable[Client]) -> None:
        """Tell clients that wait for a thread."""
        assert self._clients.waiting
        for client in waiting:
            self._clients.waiting.release(client)
        for client in waiting:
            self._tell(client)

    def _await_turn(self) -> None:
        if self._turns.next < inf:
            self._poller.timers.schedule(self._turn, self._turns.next)

    def tell_next(self, _turn: EventSource) -> None:
        """Tell the clients whose turn has come, each after the echo of what has arrived."""
        for client in self._turns.take():
            if client.phase == AWAITING_THREAD:
                self._release([client])
            elif client.phase in RESTING and unread(client.sock):
                self._answer(client)
            else:
                self._begin(client)
        self._await_turn()

    def _answer(self, client: Client) -> None:
        """Tell a client after the answer to the bytes that have arrived."""
        if client.phase == AWAITING_FIRST_BYTE:
            # The pool gives the client of a handler another turn.
            self._clients.start_handler(client, 0)
        elif self._farewell:
            self._count_arrived(client)
            self._echo_arrived(client)

    def tell_late(self, client: Client) -> None:
        """Tell a client whose handshake of TLS is done in the drain, if its turn has passed."""
        if client not in self._turns:
            self._tell(client)

    def _tell(self, client: Client) -> None:
        if client.told:
            # Alone, before the drain.
            return
        if self._says_end_of_file:
            self._end_input(client)
        elif self._farewell:
            if self._poller.now - client.last >= self._gap:
                self._send(client)
                return
            self._count_arrived(client)
            if client in self._arrived:
                self._echo_arrived(client)
            else:
                client.phase = FAREWELL_PENDING
                self._poller.timers.schedule(client, client.last + self._gap)

    def _count_arrived(self, client: Client) -> None:
        """Note how many bytes of a client wait in the kernel: later bytes come after the farewell.

        There are any only where the client sends faster than it reads.
        """
        if self._handlers or client.told or client in self._arrived:
            return
        if waiting := unread(client.sock):
            self._arrived[client] = waiting

    def _echo_arrived(self, client: Client) -> None:
        """Echo what had arrived, as the client takes it; the farewell comes a gap after the end."""
        while rest := self._arrived.pop(client, 0):
            before = client.echoed + len(client.unsent)
            sent = self._clients.echo(client, rest)
            if client.phase == GONE:
                return
            read = client.echoed + len(client.unsent) - before
            if 0 < read < rest:
                self._arrived[client] = rest - read
            if read and not sent:
                return
        self._pause(client, FAREWELL_PENDING)

    def _end_input(self, client: Client) -> None:
        """Begin a lingering close, unless the first bytes of the client have come this moment."""
        client.told = INPUT_ENDED
        try:
            has_input = bool(client.sock.recv(1, MSG_PEEK))
        except BlockingIOError:
            self._clients.linger(client)
        except OSError as error:
            self._clients.lost(client, error)
        else:
            if has_input:
                client.told = NOT_TOLD
                self._clients.start_handler(client, 0)
            else:
                self._clients.close(client, "closed by the client")

    def remind(self, reminder: EventSource) -> None:
        """Let the handlers look again and again which of their clients are at rest now."""
        assert self._handlers is not None
        wait = self._handlers.say_goodbyes()
        self._poller.schedule_after(
            reminder, min(max(wait, MIN_REMIND_INTERVAL), MAX_REMIND_INTERVAL)
        )

    def go_on(self, client: Client) -> None:
        """Set the phase of a client whose unsent bytes have all been sent."""
        is_due = self._clients.draining and client not in self._turns
        if client.told == TOLD:
            self._clients.resume(client, FAREWELL_SENT)
        elif client.told == ANSWERED:
            self._clients.resume(client, self._clients.resting)
        elif client in self._arrived or (is_due and self._farewell):
            self._echo_arrived(client)
        elif is_due and self._says_end_of_file:
            self._clients.resume(client, self._clients.resting)
            self._end_input(client)
        elif client.saved is not None:
            # A handler of another kind has written the bytes, in another process.
            self._clients.start_handler(client, 0)
        else:
            self._clients.resume(client, self._clients.resting)

    def _pause(self, client: Client, phase: int) -> None:
        """Do not read the client until the gap is over."""
        client.phase = phase
        self._poller.modify(client.sock.fileno(), 0)
        self._poller.schedule_after(client, self._gap)

    def leave_unread(self, client: Client, event: int) -> None:
        """Leave input in the kernel until the gap is over; close a client that has departed."""
        if event & EPOLLERR:
            self._clients.close(client, "reset by the client")
        elif event & EPOLLHUP:
            self._clients.close(client, "closed by the client")
        else:
            self._poller.modify(client.sock.fileno(), 0)

    def send_pending(self, client: Client) -> None:
        """Send the farewell after the gap of silence."""
        self._poller.modify(client.sock.fileno(), EPOLLIN)
        self._send(client)

    def _send(self, client: Client) -> None:
        assert self._farewell
        client.told = TOLD
        try:
            sent = client.sock.send(self._farewell)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._clients.lost(client, error)
            return
        if sent == len(self._farewell):
            client.phase = FAREWELL_SENT
        else:
            self._clients.keep_unsent(client, memoryview(self._farewell)[sent:])

    def pause_reading(self, client: Client, _event: int) -> None:
        """Leave the first bytes after the farewell in the kernel for the gap."""
        try:
            has_input = bool(client.sock.recv(1, MSG_PEEK))
        except BlockingIOError:
            # Out-of-band data, which stays until it is really read.
            has_input = True
        except OSError as error:
            self._clients.lost(client, error)
            return
        if has_input:
            self._pause(client, READ_PAUSED)
        else:
            self._clients.close(client, "closed by the client")

    def resume_reading(self, client: Client) -> None:
        """Serve the client as before the drain: the gap after the farewell is over."""
        client.told = ANSWERED
        self._clients.resume(client, self._clients.resting)
