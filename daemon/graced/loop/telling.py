"""Telling: single clients are told that the server is going offline, while it serves all others.

Each client hears the goodbye of its kind, once, when it is at rest, and has a deadline of its own.
What the drain does about all clients is done here about some: nothing wakes an I/O thread when a
client comes to rest, so it looks at these clients again and again until they are told.
"""

from __future__ import annotations

from math import inf

from graced.loop.event_source import EventSource
from graced.loop.farewell import MIN_REMIND_INTERVAL
from graced.loop.phase import GONE, NOT_TOLD, TELLING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from graced.loop.client import Client
    from graced.loop.clients import Clients
    from graced.loop.interfaces import Goodbye, Present

OWN_DEADLINE = "told by an operator, closed after its grace period"
"""The reason in the log for a client that has not departed by its own deadline."""


def tell(clients: Clients, goodbye: Goodbye, chosen: Iterable[Client], deadline: float) -> int:
    """Tell some clients, in their I/O thread: see `Telling`."""
    if clients.telling is None:
        clients.telling = Telling(clients, goodbye)
    found: Telling = clients.telling
    return found.add(chosen, deadline)


class Telling(EventSource):
    """The clients that an operator tells.  For the I/O thread alone.

    Clients that the thread has given to handlers are among them.
    """

    __slots__ = ("_clients", "_deadlines", "_goodbye", "_poller")

    def __init__(self, clients: Clients, goodbye: Goodbye) -> None:
        """`goodbye`: of the clients that are not in the thread of a handler."""
        super().__init__(TELLING)
        self._clients = clients
        self._goodbye = goodbye
        self._poller = clients.poller
        self._deadlines: dict[Client, float] = {}
        """Monotonic times."""

    def add(self, chosen: Iterable[Client], deadline: float) -> int:
        """Tell clients that are not told yet, each until `deadline`; return their number."""
        if self._clients.draining:
            return 0
        present = self._present()
        new = [
            client
            for client in chosen
            if client in present
            and client not in self._deadlines
            and not _is_told(client, present[client])
        ]
        self._deadlines.update(dict.fromkeys(new, deadline))
        self._consider(new, present)
        return len(new)

    def look(self) -> None:
        """Say goodbye to the clients that are at rest, and close those whose deadline has passed.

        In the drain there is nothing to do: all clients are told, and have its deadline.
        """
        if self._clients.draining:
            self._deadlines.clear()
        elif self._deadlines:
            self._consider(list(self._deadlines), self._present())

    def _consider(self, some: Iterable[Client], present: dict[Client, Present | None]) -> None:
        now, due = self._poller.now, self.due or inf
        for client in some:
            deadline = self._deadlines[client]
            if client not in present or now >= deadline:
                del self._deadlines[client]
                self._goodbye.forget(client)
                if client in present:
                    self._close(client, present[client])
                continue
            due = min(due, deadline)
            if not _is_told(client, session := present[client]):
                due = min(due, now + max(self._clients.policy.gap, MIN_REMIND_INTERVAL))
                session.tell() if session else self._goodbye.tell(client)
        if due < (self.due or inf):
            self._poller.timers.schedule(self, due)

    def _present(self) -> dict[Client, Present | None]:
        """The clients that are there; those in the thread of a handler with their sessions."""
        found: dict[Client, Present | None] = dict.fromkeys(self._clients.present())
        if self._clients.handlers:
            found |= {each.client: each for each in self._clients.handlers.present()}
        return found

    def _close(self, client: Client, session: Present | None) -> None:
        if session:
            session.cut(OWN_DEADLINE)
        elif client.phase != GONE:
            self._clients.part(client, OWN_DEADLINE)


def _is_told(client: Client, session: Present | None) -> bool:
    return session.is_told if session else client.told != NOT_TOLD
