"""The main thread: what moves the server through its life, and tells the world about it.

It sleeps in the kernel until there is a signal, a change in the server, or something to be said;
with nothing to do it makes no system call.
"""

from __future__ import annotations

import math
import select
import signal
import time
from collections import deque

from graced import signals
from graced.log import events
from graced.log.event import plural
from graced.loop.poller import MAX_POLL_TIMEOUT
from graced.process.lifecycle import Lifecycle, State
from graced.process.watchdog import Watchdog
from graced.server import Server
from graced.signals import SignalInbox
from graced.systemd.notify import Notifier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from graced.handover.fdstore import FdStore
    from graced.loop.client import Client

STATUS_INTERVAL = 1.0
"""Seconds between two STATUS lines, at least."""
PATIENCE = 10.0
"""Seconds that the service manager is asked, each second of the drain, to wait for the next."""


class Supervisor:
    """Takes a server from `start` to `stop`.  Main thread only; times are monotonic seconds."""

    def __init__(
        self, server: Server, inbox: SignalInbox, notifier: Notifier, *, grace: float
    ) -> None:
        """`grace`: seconds from the first stop signal to the deadline."""
        self.lifecycle = Lifecycle()
        self._server = server
        self._inbox = inbox
        self._notifier = notifier
        self._grace = grace
        self._watchdog = Watchdog(server, notifier)
        self._received: deque[signal.Signals] = deque()
        self._began = 0.0
        self._deadline = math.inf
        self._note = ""
        self._said = ""
        self._said_at = -math.inf
        self._poll = select.poll()
        self._poll.register(inbox, select.POLLIN)
        self._poll.register(server.changed_fd, select.POLLIN)

    def start(self, carried: Sequence[Client] = (), note: str = "") -> None:
        """Serve, first of all those whom the last process has left, and say so.

        `note`: what the status says of them as long as clients are served.
        """
        self._note = note
        if carried:
            self._server.adopt(carried, timeout=0.0)
        self._server.start()
        self._watchdog.start()
        self.lifecycle.to(State.SERVING)
        self._remember(self._status())
        self._notifier.ready(self._said)

    def serve(self) -> signal.Signals:
        """Return the first signal that asks to stop, for good or for the next start."""
        while (signum := self._next_signal(math.inf)) not in signals.END:
            if signum:
                events.STATUS(status=self._status())
        return signum

    def serve_until(self, ended: int, until: float) -> signal.Signals | None:
        """Go on serving after `serve` has returned `signals.HANDOVER`.

        Return None when the descriptor `ended` is readable (-1: never) or at the monotonic time
        `until`.  Return a signal to stop for good as soon as it arrives: it comes before both.
        """
        own = select.poll()
        if ended >= 0:
            own.register(ended, select.POLLIN)
            self._poll.register(ended, select.POLLIN)
        try:
            while True:
                self._received.extend(self._inbox.take())
                while self._received:
                    signum = self._received.popleft()
                    if signum in signals.STOP:
                        return signum
                    self._acknowledge(signum)
                if own.poll(0) or time.monotonic() >= until:
                    return None
                self._sleep(until)
        finally:
            if ended >= 0:
                self._poll.unregister(ended)

    def hand_over_clients(self, store: FdStore) -> None:
        """Leave the clients to the next start; whoever cannot be left remains to be told."""
        self.lifecycle.to(State.HANDING_OVER)
        frozen_at = time.monotonic()
        frozen = self._server.freeze()
        rest = store.leave(frozen, frozen_at)
        self._server.adopt(rest)
        events.HANDED_OVER(clients=len(frozen) - len(rest), clients_left=self._server.clients)

    def drain(self, first: signal.Signals) -> None:
        """Say goodbye, until the last client has left or the grace period is over."""
        handed_over = self.lifecycle.state is State.HANDING_OVER
        self.lifecycle.to(State.DRAINING)
        self._began = time.monotonic()
        self._deadline = self._began + self._grace
        clients = self._server.clients
        if not handed_over:
            events.SIGNAL(signal=first.name, seconds=self._grace, clients_left=clients)
        self._remember(self._status())
        self._notifier.stopping(self._said, PATIENCE)
        if clients:
            events.NOTIFYING(clients_left=clients)
        self._server.drain(self._deadline)
        tick = self._deadline - math.ceil(self._grace) + 1.0
        while not self._server.drained and time.monotonic() < self._deadline:
            signum = self._next_signal(min(tick, self._deadline))
            if signum:
                self._acknowledge(signum)
            if tick <= time.monotonic() < self._deadline:
                tick += 1.0
                events.COUNTDOWN(seconds=self._seconds_left(), clients_left=self._server.clients)
        for signum in self._received:
            self._acknowledge(signum)

    def stop(self) -> None:
        """Close who is left.  No handler can hold this up."""
        self.lifecycle.to(State.CLOSING)
        stuck = self._server.stop()
        if self._server.failure:
            raise self._server.failure
        self.lifecycle.to(State.STOPPED)
        if stuck:
            events.HANDLERS_STUCK(handlers=stuck)
        events.STOPPED(
            seconds=time.monotonic() - self._began,
            clients_gone=self._server.departed,
            clients_closed=self._server.closed,
        )

    def _acknowledge(self, signum: signal.Signals) -> None:
        """Say that a signal of the drain has arrived, and do what it asks for."""
        if signum in signals.IMPATIENT:
            events.SIGNAL_IMPATIENT(signal=signum.name)
            self._deadline = -math.inf
        elif signum in signals.END:
            events.SIGNAL_AGAIN(signal=signum.name)
        else:
            events.STATUS(status=self._status())

    def _next_signal(self, until: float) -> signal.Signals | None:
        """Sleep until a signal, which is returned, or a change, or `until`.

        Keeps the service manager informed.  Raises what killed an I/O thread.
        """
        if not self._received:
            self._sleep(until)
            self._received.extend(self._inbox.take())
        signum = self._received.popleft() if self._received else None
        if signum is signals.HANDOVER and not self._notifier.managed:
            # Nobody would start the next one.
            events.HANDOVER_REFUSED()
            return None
        return signum

    def _sleep(self, until: float) -> None:
        timeout = min(until, self._watchdog.due, self._status_due()) - time.monotonic()
        self._poll.poll(
            None if timeout == math.inf else 1000 * min(max(0, timeout), MAX_POLL_TIMEOUT)
        )
        self._server.take_changes()
        if self._server.failure:
            raise self._server.failure
        self._watchdog.look()
        self._tell_status()

    def _status(self) -> str:
        server = self._server
        clients = plural(server.clients, "client")
        if self.lifecycle.state is State.DRAINING:
            return f"draining: {clients} remaining, {self._seconds_left()} s to go"
        return (
            f"serving: {clients} now, {server.admitted} so far,"
            f" {plural(server.echoed, 'byte')} echoed{self._note}"
        )

    def _seconds_left(self) -> int:
        left = self._deadline - time.monotonic()
        return max(0, round(left)) if left > 0 else 0

    def _status_due(self) -> float:
        """When to say how we are: as soon as that has changed, but not too often."""
        if not self._notifier:
            return math.inf
        if self._status() == self._said:
            self._server.report_next_activity()
            if self._status() == self._said:
                return math.inf
        return self._said_at + STATUS_INTERVAL

    def _tell_status(self) -> None:
        due = self._said_at + STATUS_INTERVAL
        if self._notifier and due <= time.monotonic() < self._deadline:
            status = self._status()
            if status != self._said:
                self._remember(status)
                draining = self.lifecycle.state is State.DRAINING
                self._notifier.status(status, PATIENCE if draining else 0.0)

    def _remember(self, status: str) -> None:
        self._said = status
        self._said_at = time.monotonic()
