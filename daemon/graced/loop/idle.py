"""The idle timeout: clients that send nothing for too long are closed.

No timer is moved for a message.  A sweep looks at the last message of all clients instead, when the
timeout of the longest silent client may have passed.
"""

from __future__ import annotations

from graced.loop.clients import RESTING
from graced.loop.event_source import EventSource
from graced.loop.phase import SWEEPING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.loop.client import Client
    from graced.loop.clients import Clients

MIN_SWEEP_INTERVAL = 1 / 16
"""Between two sweeps, as a part of the timeout: many clients do not make many sweeps."""


class IdleSweep(EventSource):
    """The next sweep of an I/O thread over its clients."""

    __slots__ = ("_clients", "_poller", "_timeout")

    def __init__(self, clients: Clients) -> None:
        super().__init__(SWEEPING)
        self._clients = clients
        self._poller = clients.poller
        self._timeout = clients.policy.idle_timeout

    def expect(self, client: Client) -> None:
        """Sweep as soon as this client may have been idle for too long."""
        if self._timeout:
            due = max(self._poller.now, client.last + self._timeout)
            if not self.due or due < self.due:
                self._poller.timers.schedule(self, due)

    def close_idle(self, _sweep: EventSource) -> None:
        """Close the idle clients, and schedule the next sweep while there are clients."""
        now = self._poller.now
        oldest = now
        for client in self._clients.present():
            if client.phase in RESTING:
                if client.last + self._timeout <= now:
                    self._clients.close(client, "idle")
                else:
                    oldest = min(oldest, client.last)
        if self._clients.handlers:
            oldest = min(oldest, now - self._clients.handlers.close_idle(self._timeout))
        if self._clients.admission.clients:
            soonest = now + self._timeout * MIN_SWEEP_INTERVAL
            self._poller.timers.schedule(self, max(oldest + self._timeout, soonest))
