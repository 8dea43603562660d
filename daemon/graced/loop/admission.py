"""Who may come in: the clients counted, all together and by host, and those who stay out."""

from __future__ import annotations

import threading

from graced.log import events
from graced.loop.client import Client
from graced.loop.event_source import EventSource
from graced.loop.phase import REPORTING


class Admission:
    """Counts the clients of all I/O threads.  Any thread may call."""

    def __init__(self, max_clients: int, max_clients_per_host: int) -> None:
        """A `max_clients_per_host` of 0 stands for no limit of its own."""
        self._lock = threading.Lock()
        self._max_clients = max_clients
        self._max_per_host = max_clients_per_host
        self._per_host: dict[str, int] = {}
        self.clients = 0
        """How many there are now."""
        self.admitted = 0
        """How many there have been so far."""

    def enter(self, host: str) -> str:
        """Count a client in; where it must stay out, return the reason and count nothing.

        The clients of a Unix socket share one "host" and usually come from one proxy: for them
        only the limit of all clients holds.
        """
        with self._lock:
            if self.clients >= self._max_clients:
                return f"max_clients = {self._max_clients} reached"
            if self._max_per_host and not host.startswith("unix:"):
                present = self._per_host.get(host, 0)
                if present >= self._max_per_host:
                    return f"max_clients_per_host = {self._max_per_host} reached"
                self._per_host[host] = present + 1
            self.clients += 1
            self.admitted += 1
        return ""

    def leave(self, host: str) -> None:
        """Count a client out that was counted in."""
        with self._lock:
            self.clients -= 1
            if host in self._per_host:
                self._per_host[host] -= 1
                if not self._per_host[host]:
                    del self._per_host[host]


class Refusals(EventSource):
    """Those of an I/O thread that have not been reported."""

    __slots__ = ("_last", "_number")

    def __init__(self) -> None:
        super().__init__(REPORTING)
        self._number = 0
        self._last: tuple[Client, str] | None = None

    def add(self, client: Client, reason: str) -> None:
        """Remember one."""
        self._number += 1
        self._last = (client, reason)

    def report(self) -> bool:
        """Log how many there were, and the last of them; return whether there was any."""
        if self._last is None:
            return False
        client, reason = self._last
        events.REFUSED(refused=self._number, client=client, reason=reason)
        self._number = 0
        self._last = None
        return True
