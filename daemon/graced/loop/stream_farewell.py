"""The farewell to clients of stream handlers.

`graced.loop.io_thread` says why the farewell stands alone, and shows the phases.  A stream handler
differs from the echo in one point: an answer may come later than its question.  So a client is read
until it is *at rest*, and then not read for the gap.  Where no farewell is declared, the input of
the handler ends instead, and the handler finishes in its own words.
"""

from __future__ import annotations

from math import inf
from socket import MSG_PEEK

from graced.loop.event_source import EventSource
from graced.loop.farewell import MIN_REMIND_INTERVAL
from graced.loop.phase import (
    ANSWERED,
    CALLING,
    CLIENT_PHASES,
    DEPARTING,
    FAREWELL_PENDING,
    FAREWELL_SENT,
    INPUT_ENDED,
    NOT_TOLD,
    READ_PAUSED,
    REMINDING,
    STREAMING,
    TAKING_TURNS,
    TOLD,
    WRITE_BLOCKED,
)
from graced.loop.stream_input import StreamInput
from graced.loop.transport import Call
from graced.sockets.unread import unread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from typing import Any

    from graced.loop.streams import Streams
    from graced.loop.transport import Transport


class StreamFarewell:
    """Says goodbye to each client once, when it is at rest."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self.input = StreamInput(streams)
        self._clients = streams.clients
        self._poller = streams.poller
        self._gap = streams.clients.policy.gap
        self._reminder = EventSource(REMINDING)
        self._turns = streams.clients.policy.new_turns()
        self._turn = EventSource(TAKING_TURNS)
        self._arrived: dict[Transport, int] = {}
        """Bytes that had arrived when the drain began, and are to be read before the farewell."""
        streams.on_rest = self._consider

    def on_event(self) -> dict[int, Callable[[Any, int], None]]:
        """What to do when a descriptor is ready, by the phase of the client."""
        return {
            STREAMING: self.input.receive,
            WRITE_BLOCKED: self._streams.flush,
            FAREWELL_PENDING: self._leave_unread,
            FAREWELL_SENT: self._pause_reading,
            READ_PAUSED: self._leave_unread,
        }

    def on_due(self) -> dict[int, Callable[[Any], None]]:
        """What to do when a time has come, by the phase of the source."""
        return {
            STREAMING: self._clients.close_stalled,
            FAREWELL_PENDING: self._send_pending,
            READ_PAUSED: self._resume_reading,
            REMINDING: self._remind,
            TAKING_TURNS: self._tell_next,
            DEPARTING: self._streams.end,
            CALLING: Call.run,
        }

    def drain(self) -> None:
        """Tell the clients that are at rest now, and each other client as soon as it is at rest.

        With a spread that begins with the turn of each client.
        """
        self._clients.draining = True
        self._turns.begin(self._clients.parts_until)
        clients: Any = self._clients.present()
        self._begin(self._turns.give(clients))
        self._await_turn()

    def _begin(self, clients: Collection[Any]) -> None:
        for client in clients:
            if waiting := unread(client.sock):
                self._arrived[client] = waiting
        for client in clients:
            self._consider(client)
        self._remind_soon(clients)

    def tell(self, client: Transport) -> None:
        """Tell a client alone, if it is at rest now.

        What had arrived by one look is read by the next, if the handler reads at all.
        """
        seen = self._arrived.pop(client, 0)
        waiting = 0 if seen else unread(client.sock)
        if waiting:
            self._arrived[client] = waiting
        else:
            self._consider(client)

    def forget(self, client: Transport) -> None:
        """Forget a client that was told alone and has gone, or is closed."""
        self._arrived.pop(client, None)

    def _await_turn(self) -> None:
        if self._turns.next < inf:
            self._poller.timers.schedule(self._turn, self._turns.next)

    def _tell_next(self, _turn: EventSource) -> None:
        """Tell the clients whose turn has come, each as soon as it is at rest."""
        self._begin([each for each in self._turns.take() if each.phase < CLIENT_PHASES])
        self._await_turn()

    def _remind(self, _reminder: EventSource) -> None:
        """Look at all clients: a client can come to rest without a callback of its handler.

        Another client's handler may have written its answer.
        """
        clients: Any = self._clients.present()
        for client in clients:
            self._consider(client)
        self._remind_soon(clients)

    def _remind_soon(self, clients: Iterable[Any]) -> None:
        if self._reminder.due:
            return
        if any(each.told == NOT_TOLD and each not in self._turns for each in clients):
            self._poller.schedule_after(self._reminder, max(self._gap, MIN_REMIND_INTERVAL))

    def _consider(self, client: Transport, read: int = 0) -> None:
        """Tell a client that is at rest, or note that it is; `read`: bytes that were read just now.

        Where the handler does not want to read, what has arrived is not waited for.  In TLS more
        bytes arrive than are read: there the end of them shows that all are read.
        """
        if read and client in self._arrived:
            rest = self._arrived.pop(client) - read
            if rest > 0:
                self._arrived[client] = rest
        if client.told != NOT_TOLD or client.phase != STREAMING or client in self._turns:
            return
        if client in self._arrived and client.reading and not client.at_eof and unread(client.sock):
            return
        if self._streams.is_at_rest(client):
            if self._poller.now - client.last >= self._gap:
                self._tell(client)
            else:
                self._hold(client, FAREWELL_PENDING, client.last + self._gap)

    def _hold(self, client: Transport, phase: int, until: float) -> None:
        """Do not read the client until the gap is over."""
        client.phase = phase
        self._streams.watch(client)
        self._poller.timers.schedule(client, until)

    def _read_again(self, client: Transport) -> None:
        client.due = 0.0
        client.phase = STREAMING
        self._streams.watch(client)

    def _leave_unread(self, client: Transport, _event: int) -> None:
        """Read a client that has departed: its last input is answered before the end."""
        if client.told == TOLD:
            client.told = ANSWERED
        self._read_again(client)

    def _send_pending(self, client: Transport) -> None:
        """Tell a client after the gap of silence, which the handler may have broken."""
        if self._poller.now - client.last < self._gap:
            self._poller.timers.schedule(client, client.last + self._gap)
            return
        self._read_again(client)
        self._tell(client)

    def _tell(self, client: Transport) -> None:
        # Before the handler is asked: a client whose handler calls back is told only once.
        client.told = TOLD
        farewell = self._streams.farewell_of(client)
        if client.closing:
            return
        if farewell:
            self._send(client, farewell)
        else:
            self._end_input(client)

    def _send(self, client: Transport, farewell: bytes) -> None:
        try:
            sent = client.sock.send(farewell)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._streams.end_soon(client, error)
            return
        client.phase = FAREWELL_SENT
        if sent < len(farewell):
            self._streams.keep_unsent(client, farewell, sent)

    def _end_input(self, client: Transport) -> None:
        """End the input of a handler, unless more has come this moment."""
        client.told = INPUT_ENDED
        try:
            client.sock.recv(1, MSG_PEEK)
        except BlockingIOError:
            self._streams.end_input(client)
        except OSError as error:
            self._streams.end_soon(client, error)
        else:
            client.told = NOT_TOLD
            # The answer puts the client at rest again; at its end the handler hears of the end.
            client.unanswered = True

    def _pause_reading(self, client: Transport, _event: int) -> None:
        """Leave the first bytes after the farewell in the kernel for the gap."""
        try:
            ended = not client.sock.recv(1, MSG_PEEK)
        except BlockingIOError:
            # Out-of-band data, which stays until it is really read.
            ended = False
        except OSError as error:
            self._streams.end_soon(client, error)
            return
        if ended:
            client.told = ANSWERED
            client.phase = STREAMING
        else:
            self._hold(client, READ_PAUSED, self._poller.now + self._gap)

    def _resume_reading(self, client: Transport) -> None:
        """Serve the client as before the drain: the gap after the farewell is over."""
        client.told = ANSWERED
        self._read_again(client)
