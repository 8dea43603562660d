"""The main thread: moves the server from state to state, and reports to log and service manager.

`graced.process.lifecycle` has the table of states.

The main thread sleeps in poll(2) until a signal arrives, until the server has changed, or until a
report is due.  Without any of these the main thread makes no system call.
"""

from __future__ import annotations

import math
import os
import select
import signal
import time
from collections import deque
from functools import partial

from graced import signals
from graced.errors import StuckError
from graced.log import events
from graced.log.event import plural
from graced.loop.poller import MAX_POLL_TIMEOUT
from graced.process.lifecycle import Lifecycle, State
from graced.process.watchdog import Watchdog
from graced.server import FREEZE_TIMEOUT, Server
from graced.signals import SignalInbox
from graced.sockets.closing import close_quickly
from graced.systemd.notify import Notifier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from graced.handover.fdstore import FdStore
    from graced.loop.client import Client

    class Attended(Protocol):
        """A descriptor that the main thread attends to."""

        due: float
        """Monotonic time until which no event counts; infinite: each counts."""

        def fileno(self) -> int:
            """The descriptor, which becomes readable."""

        def look(self) -> None:
            """Do what is to be done; never waits and never fails."""


SETTLE_AFTER = 0.15
"""Seconds until the first look at handlers, before a handover: a handler that has just begun to
work counts as busy by then (`graced.handlers.session.BUSY_AFTER`)."""
SETTLE_INTERVAL = 0.05
"""Seconds between two looks at handlers that are busy, before a handover."""
LAST_PART = 1.0
"""Seconds, at most, that clients which cannot be handed over get of the grace period."""
LISTED_ADDRESSES = 3
"""Addresses in the status line, at most."""
STATUS_INTERVAL = 1.0
"""Seconds between two STATUS= lines, at least."""
EXTEND_TIMEOUT = 10.0
"""Seconds in EXTEND_TIMEOUT_USEC=, which each message of the drain asks the service manager for."""


class Supervisor:
    """Takes a server from STARTING to STOPPED.  Main thread only; times are monotonic seconds."""

    def __init__(
        self,
        server: Server,
        inbox: SignalInbox,
        notifier: Notifier,
        *,
        grace: float,
        lame_duck: float = 0.0,
    ) -> None:
        """`grace`: seconds from the beginning of the drain to the deadline.

        `lame_duck`: seconds from the first stop signal to the drain.
        """
        self.lifecycle = Lifecycle()
        self._server = server
        self._inbox = inbox
        self._notifier = notifier
        self._grace = grace
        self._lame_duck = lame_duck
        self._lame_until = -math.inf
        self._in_haste = False
        self._watchdog = Watchdog(server, notifier)
        notifier.on_failure(partial(os.eventfd_write, server.changed_fd, 1))
        self._received: deque[signal.Signals] = deque()
        self._drain_began = 0.0
        self._deadline = math.inf
        self._handed_over = False
        self.note = ""
        """The end of the status line while clients are served."""
        self.missing = ""
        """What the service waits for, at the very end of that line."""
        self.on_change: Callable[[], None] | None = None
        """Called when the server may have changed."""
        self._attended: Attended | None = None
        self._sent_status = ""
        self._sent_status_at = -math.inf
        self._poll = select.poll()
        self._poll.register(inbox, select.POLLIN)
        self._poll.register(server.changed_fd, select.POLLIN)

    def start(
        self,
        inherited: Sequence[Client] = (),
        begin: Callable[[], None] = lambda: None,
        served: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve, `inherited` clients first, and report READY=1.  Raises `StartError`.

        When the start can fail no longer `begin` is called, before a client is served, and
        `served` afterwards, before that report.
        """
        self._server.start(inherited, begin)
        served()
        self._watchdog.start()
        self.lifecycle.to(State.SERVING)
        self._set_status(self._status())
        self._notifier.ready(self._sent_status)

    def attend(self, source: Attended) -> None:
        """Look at `source` when its descriptor is readable, until the end."""
        self._attended = source
        self._poll.register(source, select.POLLIN)

    def serve(self) -> signal.Signals:
        """Serve until a signal in `signals.END`, and return the signal.

        Raises the exception that has ended an I/O thread.
        """
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

    def settle(self) -> signal.Signals | None:
        """Go on serving until the handlers that are busy have come to rest, before a handover.

        Clients at rest do not wait meanwhile.  Ends in time for the rest of the grace period, and
        at a signal to stop for good, which is returned.
        """
        self.lifecycle.to(State.HANDING_OVER)
        now = time.monotonic()
        self._deadline = now + self._grace
        until = self._deadline - min(LAST_PART, self._grace / 4)
        first = True
        pool = self._server.pool
        if pool and pool.movable and (signum := self.serve_until(-1, now + SETTLE_AFTER)):
            return signum
        while (now := time.monotonic()) < until and (busy := self._server.settle()):
            if first:
                events.SETTLING(handlers=busy, seconds=self._grace)
                first = False
            signum = self.serve_until(-1, min(until, now + SETTLE_INTERVAL))
            if signum:
                self._server.resume()
                return signum
        return None

    def hand_over_clients(self, store: FdStore, handler: str = "") -> None:
        """Hand clients over to the next start; clients without room in `store` remain.

        `handler`: the name of their handler.  All clients remain where an I/O thread does not
        answer.
        """
        self._handed_over = True
        self._notifier.status("handing over", FREEZE_TIMEOUT + EXTEND_TIMEOUT)
        frozen_at = time.monotonic()
        try:
            frozen = self._server.freeze()
        except StuckError as error:
            events.CANNOT_HAND_OVER(reason=error)
            frozen = []
        remaining = store.hand_over(frozen, frozen_at, self._server.counts, handler)
        close_quickly(client.sock for client in frozen[: len(frozen) - len(remaining)])
        if remaining:
            self._server.adopt(remaining)
        events.HANDED_OVER(clients=len(frozen) - len(remaining), clients_left=self._server.clients)

    def hurry(self) -> None:
        """Skip the lame duck of the stop that comes or has begun, at the next signal.

        Any thread may call.
        """
        self._in_haste = True

    def lame_duck(self, first: signal.Signals) -> signal.Signals | None:
        """Serve, new clients too, while load balancers look away; return the signal to drain for.

        None: it is logged already.  Skipped where `first`, the signal that has ended `serve`, or
        another is impatient, and where the clients were about to be handed over.
        """
        if not self._lame_duck or self._in_haste or first in signals.IMPATIENT:
            return first
        if self.lifecycle.state is not State.SERVING:
            return first
        self.lifecycle.to(State.LAME_DUCK)
        self._lame_until = time.monotonic() + self._lame_duck
        events.LAME_DUCK(
            signal=first.name, seconds=self._lame_duck, clients_left=self._server.clients
        )
        self._set_status(self._status())
        self._notifier.stopping(self._sent_status, EXTEND_TIMEOUT)
        while not self._in_haste and (now := time.monotonic()) < self._lame_until:
            # The status line counts the seconds.
            signum = self._next_signal(min(now + STATUS_INTERVAL, self._lame_until))
            if signum in signals.IMPATIENT:
                return signum
            if signum:
                self._acknowledge(signum)
        return None

    def drain(self, first: signal.Signals | None) -> None:
        """Send the farewell; return when no client remains, or at the deadline.

        `first`: the signal that is the reason; None: it is logged already.  Raises the exception
        that has ended an I/O thread.
        """
        self.lifecycle.to(State.DRAINING)
        self._drain_began = now = time.monotonic()
        grace = self._grace
        if self._handed_over:
            # One grace period for all of the restart.
            grace = max(self._deadline - now, min(LAST_PART, grace))
        self._deadline = now + grace
        clients = self._server.clients
        if first is None:
            events.COUNTDOWN(seconds=self._seconds_remaining(), clients_left=clients)
        elif not self._handed_over:
            events.SIGNAL(signal=first.name, seconds=self._grace, clients_left=clients)
        self._set_status(self._status())
        self._notifier.stopping(self._sent_status, EXTEND_TIMEOUT)
        if clients:
            events.NOTIFYING(clients_left=clients)
        self._server.drain(self._deadline)
        tick = self._deadline - math.ceil(grace) + 1.0
        while not self._server.drained and time.monotonic() < self._deadline:
            signum = self._next_signal(min(tick, self._deadline))
            if signum:
                self._acknowledge(signum)
            if tick <= time.monotonic() < self._deadline:
                tick += 1.0
                events.COUNTDOWN(
                    seconds=self._seconds_remaining(), clients_left=self._server.clients
                )
        for signum in self._received:
            self._acknowledge(signum)

    def stop(self) -> None:
        """Close the remaining clients.  No handler can delay this by more than a moment."""
        self.lifecycle.to(State.CLOSING)
        stuck = self._server.stop()
        if self._server.failure:
            raise self._server.failure
        self.lifecycle.to(State.STOPPED)
        if stuck:
            events.HANDLERS_STUCK(handlers=stuck)
        departed, closed = self._server.departed, self._server.closed
        # Shown by `systemctl status` until the next start.
        self._notifier.status(
            f"stopped: {plural(departed, 'client')} departed, {closed} closed at the deadline"
        )
        events.STOPPED(
            seconds=time.monotonic() - self._drain_began,
            clients_gone=departed,
            clients_closed=closed,
        )

    def _acknowledge(self, signum: signal.Signals) -> None:
        """Log a signal that arrived in the drain, and obey."""
        if signum in signals.IMPATIENT:
            events.SIGNAL_IMPATIENT(signal=signum.name)
            self._deadline = -math.inf
        elif signum in signals.END:
            events.SIGNAL_AGAIN(signal=signum.name)
        else:
            events.STATUS(status=self._status())

    def _next_signal(self, until: float) -> signal.Signals | None:
        """Sleep until a signal, which is returned, until a change of the server, or until `until`.

        Keeps the service manager informed.  Raises the exception that has ended an I/O thread.
        """
        if not self._received:
            self._sleep(until)
            self._received.extend(self._inbox.take())
        signum = self._received.popleft() if self._received else None
        if signum is signals.HANDOVER and not self._notifier.managed:
            # No service manager would start the next process.
            events.HANDOVER_REFUSED()
            return None
        return signum

    def _sleep(self, until: float) -> None:
        due = min(until, self._watchdog.due, self._status_due(), self._notifier.due)
        attended = self._attended
        if attended:
            due = min(due, attended.due)
            self._poll.modify(attended, select.POLLIN if attended.due == math.inf else 0)
        timeout = min(max(0.0, due - time.monotonic()), MAX_POLL_TIMEOUT)
        ready = self._poll.poll(None if due == math.inf else 1000 * timeout)
        if attended and (dict(ready).get(attended.fileno()) or attended.due <= time.monotonic()):
            attended.look()
        self._server.take_changes()
        if self._server.failure:
            raise self._server.failure
        if self.on_change:
            self.on_change()
        self._watchdog.look()
        self._send_status()
        self._notifier.send_again()

    def _status(self) -> str:
        server = self._server
        clients = plural(server.clients, "client")
        number = server.waiting
        waiting = f", {plural(number, 'client')} waiting for a thread" if number else ""
        if self.lifecycle.state is State.DRAINING:
            return f"draining: {clients} remaining, {self._seconds_remaining()} s to go{waiting}"
        if self.lifecycle.state is State.LAME_DUCK:
            wait = math.ceil(max(0.0, self._lame_until - time.monotonic()))
            return f"lame duck: {clients} now, new ones are served for {wait} s more{waiting}"
        if self.lifecycle.state is State.HANDING_OVER:
            return f"handing over: {clients} now, {self._seconds_remaining()} s to go{waiting}"
        missing = f"; {self.missing}" if self.missing else ""
        probes = f" ({server.probes} without a byte)" if server.probes else ""
        refused = f", {number} refused" if (number := server.admission.refused) else ""
        return (
            f"serving: {clients} now, {server.admitted} so far{probes}{refused},"
            f" {plural(server.echoed, 'byte')} echoed on {_listed(server.addresses)}"
            f"{waiting}{self.note}{missing}"
        )

    def _seconds_remaining(self) -> int:
        return round(max(0.0, self._deadline - time.monotonic()))

    def _status_due(self) -> float:
        """The time of the next STATUS= line: when the status has changed, but not too often."""
        if not self._notifier:
            return math.inf
        if self._status() == self._sent_status:
            self._server.report_next_activity()
            if self._status() == self._sent_status:
                return math.inf
        return self._sent_status_at + STATUS_INTERVAL

    def _send_status(self) -> None:
        due = self._sent_status_at + STATUS_INTERVAL
        if self._notifier and due <= time.monotonic() < self._deadline:
            status = self._status()
            if status != self._sent_status:
                self._set_status(status)
                serving = self.lifecycle.state is State.SERVING
                self._notifier.status(status, 0.0 if serving else EXTEND_TIMEOUT)

    def _set_status(self, status: str) -> None:
        self._sent_status = status
        self._sent_status_at = time.monotonic()


def _listed(addresses: Sequence[str]) -> str:
    more = len(addresses) - LISTED_ADDRESSES
    listed = ", ".join(addresses[:LISTED_ADDRESSES]) or "no address yet"
    return f"{listed} and {more} more" if more > 0 else listed
