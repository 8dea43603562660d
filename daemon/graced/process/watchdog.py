"""The watchdog: feeds the service manager as long as every I/O thread turns."""

from __future__ import annotations

import math
import time

from graced.log import events
from graced.server import Server
from graced.systemd.notify import Notifier


class Watchdog:
    """Asks the I/O threads for a sign of life and passes it on.  Main thread only.

    It is fed thrice in the time that the service manager allows, so that one late answer is no
    disaster.
    """

    def __init__(self, server: Server, notifier: Notifier) -> None:
        self.due = math.inf
        """Monotonic time of the next `look` that cannot wait."""
        self._server = server
        self._notifier = notifier
        self._interval = notifier.watchdog / 3
        self._asked = 0.0
        self._warned = False

    def start(self) -> None:
        """Begin to feed, if the service manager wants it."""
        if self._interval:
            self.due = time.monotonic()

    def look(self) -> None:
        """Feed if all I/O threads have answered, ask them if it is time."""
        if self._asked and self._server.alive:
            self._notifier.feed_watchdog()
            self._asked = 0.0
            self._warned = False
        now = time.monotonic()
        if now < self.due:
            return
        self.due = now + self._interval
        if not self._asked:
            self._asked = now
            self._server.probe()
        elif not self._warned:
            self._warned = True
            events.WATCHDOG_LATE(seconds=now - self._asked)
