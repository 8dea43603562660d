"""Clients that say nothing, while nobody knows whether their handler speaks first.

Such a client may wait for words of the server, and the server waits for its first byte.  After
`SILENCE` its handler starts all the same; `graced.handlers.greeting` looks at what the handler
does.  A few clients are enough to find out, so that silent clients cost no threads.
"""

from __future__ import annotations

from graced.loop.event_source import EventSource
from graced.loop.phase import AWAITING_FIRST_BYTE, TRYING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.loop.client import Client
    from graced.loop.interfaces import Handlers
    from graced.loop.poller import Poller
    from graced.loop.waiting import Waiting

SILENCE = 5.0
"""Seconds without a byte after which a client gets its handler.

Health checks are over by then."""
TRIALS = 3
"""Clients of one I/O thread that get their handler, at most: a trial may tell nothing."""
TRIAL_INTERVAL = 1.0
"""Seconds after a trial until the next, at least."""


class SilenceWatch(EventSource):
    """The next look of an I/O thread at its silent clients."""

    __slots__ = ("_handlers", "_poller", "_present", "_trials", "_waiting")

    def __init__(
        self,
        poller: Poller,
        handlers: Handlers,
        waiting: Waiting,
        present: Callable[[], list[Client]],
    ) -> None:
        """`present` returns the clients of the I/O thread."""
        super().__init__(TRYING)
        self._poller = poller
        self._handlers = handlers
        self._waiting = waiting
        self._present = present
        self._trials = TRIALS

    def expect(self, client: Client) -> None:
        """Look at this client as soon as it may have been silent for too long."""
        if not self.due and self._trials and self._handlers.greet is None:
            self._look_at(client.since + SILENCE)

    def _look_at(self, due: float) -> None:
        self._poller.timers.schedule(self, max(self._poller.now, due))

    def start_handler(self, _watch: EventSource) -> None:
        """Start the handler of the client that has been silent for longest.

        Where the handler is known to speak first by now, start the handlers of all.
        """
        greet = self._handlers.greet
        silent = [each for each in self._present() if each.phase == AWAITING_FIRST_BYTE]
        if greet:
            for client in silent:
                self._waiting.start_or_wait(client)
        elif silent and self._trials and greet is None:
            first = min(silent, key=lambda client: client.since)
            if first.since + SILENCE > self._poller.now:
                self._look_at(first.since + SILENCE)
                return
            self._trials -= 1
            self._waiting.start_if_free(first)
            self._look_at(self._poller.now + TRIAL_INTERVAL)
