"""Admission: the limits of clients, altogether and by host, and the reports of refused clients."""

from __future__ import annotations

import threading

from graced.log import events
from graced.loop.client import Client
from graced.loop.event_source import EventSource
from graced.loop.phase import REPORTING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.loop.new_clients import NewClients


class NoCapacityError(Exception):
    """No client can be accepted for now; the text is the reason."""


class Admission:
    """Counts the clients of all I/O threads.  Any thread may call."""

    def __init__(
        self, max_clients: int, max_clients_per_host: int, new_clients: NewClients | None = None
    ) -> None:
        """A `max_clients_per_host` of 0 sets no limit by host.  `new_clients`: limits the rate."""
        self._lock = threading.Lock()
        self.max_clients = max_clients
        self.max_per_host = max_clients_per_host
        self._per_host: dict[str, int] = {}
        self._new_clients = new_clients
        self.clients = 0
        """Clients now."""
        self.admitted = 0
        """Clients so far."""
        self.probes = 0
        """Clients so far that were not logged, as they had no byte."""
        self.refused = 0
        """Clients so far that were refused, by a limit or by a rule for hosts."""
        self.refused_by: dict[str, int] = {}
        """The same by the setting that refuses; of processes of release 0.2 only the sum is known.
        """

    def enter(self, host: str, *, adopted: bool = False) -> str:
        """Count a client and return an empty string; or return the reason for refusing the client.

        `adopted`: the client was admitted before, is in the count of all clients so far, and is no
        new client for the rate.
        All clients of a Unix socket have the same `host` and usually come from one proxy, so the
        limit by host does not hold for them.
        """
        with self._lock:
            if self.clients >= self.max_clients:
                return f"max_clients = {self.max_clients} reached"
            by_host = self.max_per_host and not host.startswith("unix:")
            present = self._per_host.get(host, 0)
            if by_host and present >= self.max_per_host:
                return f"max_clients_per_host = {self.max_per_host} reached"
            if self._new_clients and not adopted and (reached := self._new_clients.take(host)):
                return reached
            if by_host:
                self._per_host[host] = present + 1
            self.clients += 1
            self.admitted += not adopted
        return ""

    @property
    def most_of_a_host(self) -> int:
        """The most clients that a host has now; 0 where there is no limit by host."""
        with self._lock:
            return max(self._per_host.values(), default=0)

    def refuse(self, reason: str) -> None:
        """Count a refused client, whose `reason` begins with the setting that refuses it."""
        setting = reason.partition(" ")[0].rstrip(":")
        with self._lock:
            self.refused += 1
            self.refused_by[setting] = self.refused_by.get(setting, 0) + 1

    def add(self, admitted: int, probes: int, refused: int) -> None:
        """Add what another process has counted so far."""
        with self._lock:
            self.admitted += admitted
            self.probes += probes
            self.refused += refused

    def add_refused(self, setting: str, number: int) -> None:
        """Add refusals by `setting`, which are in the sum of `add`."""
        with self._lock:
            self.refused_by[setting] = self.refused_by.get(setting, 0) + number

    def leave(self, host: str, *, probe: bool = False) -> None:
        """Stop counting a client that `enter` has counted."""
        with self._lock:
            self.clients -= 1
            self.probes += probe
            if host in self._per_host:
                self._per_host[host] -= 1
                if not self._per_host[host]:
                    del self._per_host[host]


class Refusals(EventSource):
    """The refused clients of an I/O thread since the last report."""

    __slots__ = ("_last", "_number")

    def __init__(self) -> None:
        super().__init__(REPORTING)
        self._number = 0
        self._last: tuple[Client, str] | None = None

    def add(self, client: Client, reason: str) -> None:
        """Remember a refused client for the next report."""
        self._number += 1
        self._last = (client, reason)

    def report(self) -> bool:
        """Log the number of refused clients and the last of them; return whether there was any."""
        if self._last is None:
            return False
        client, reason = self._last
        events.REFUSED(refused=self._number, client=client, reason=reason)
        self._number = 0
        self._last = None
        return True
