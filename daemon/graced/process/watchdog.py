"""The watchdog: WATCHDOG=1 to the service manager while every thread answers that must not wait.

The service manager kills a service without such a message for WatchdogSec=, and starts the service
again.
"""

from __future__ import annotations

import math
import time

from graced.log import events
from graced.server import Server
from graced.systemd.notify import Notifier

FEEDS_PER_INTERVAL = 3
"""Messages within WatchdogSec=: a single late answer of an I/O thread does no harm."""


class Watchdog:
    """Asks the threads for a sign of life and reports WATCHDOG=1.  Main thread only."""

    def __init__(self, server: Server, notifier: Notifier) -> None:
        self.due = math.inf
        """Monotonic time of the next necessary `look`."""
        self._liveness = server.liveness
        self._notifier = notifier
        self._interval = notifier.watchdog / FEEDS_PER_INTERVAL
        self._probed_at = 0.0
        """Monotonic time of the unanswered probe; 0: no probe is unanswered."""
        self._warned = False

    def start(self) -> None:
        """Begin to feed, if the service manager has a watchdog for the service."""
        if self._interval:
            self.due = time.monotonic()

    def look(self) -> None:
        """Feed the watchdog if all threads have answered, and probe them when due."""
        if self._probed_at and not self._liveness.late:
            self._notifier.feed_watchdog()
            self._probed_at = 0.0
            self._warned = False
        now = time.monotonic()
        if now < self.due:
            return
        self.due = now + self._interval
        if not self._probed_at:
            self._probed_at = now
            self._liveness.probe()
        elif not self._warned:
            self._warned = True
            thread = self._liveness.late
            events.WATCHDOG_LATE(thread=thread, seconds=now - self._probed_at)
            if place := self._liveness.blocked_at():
                events.HANDLER_BLOCKS(handler=self._liveness.handler, place=place)
