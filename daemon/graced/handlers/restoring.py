"""The restoring of handlers: none goes on before the state of all is restored.

Otherwise a handler could write to a room, say, in which not everybody is back yet.  Handlers of
new clients wait as well.
"""

from __future__ import annotations

import time
from threading import Condition, Event, Lock

from graced.log import events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.handlers.session import Session

TIMEOUT = 10.0
"""Seconds after which the others go on without a handler whose `restore` has not returned."""


class Together:
    """I/O threads that restore stream handlers, and then go on together."""

    def __init__(self, threads: int, on_restored: Callable[[], None]) -> None:
        """`on_restored` is called when the state of all is restored, before any goes on."""
        self._on_restored = on_restored
        self._lock = Lock()
        self._missing = threads
        self._over = Event()

    def go_on(self) -> None:
        """Called by a thread that has restored its handlers.

        Return when the other threads have done so too, or after `TIMEOUT`.
        """
        with self._lock:
            self._missing -= 1
            is_last = not self._missing
        if is_last:
            self._on_restored()
            self._over.set()
        self._over.wait(TIMEOUT)


class Restoring:
    """The handlers of one pool that restore their state.  Any thread may call."""

    def __init__(self, on_restored: Callable[[], None]) -> None:
        """`on_restored` is called when the state of all is restored, before any goes on."""
        self._on_restored = on_restored
        self._lock = Lock()
        self._changed = Condition(self._lock)
        self._coming = False
        self._unfinished: set[Session] = set()
        self._restored: set[Session] = set()
        self._over = True
        self._deadline = 0.0

    def begin(self) -> None:
        """Let all handlers wait: clients with a saved state come now, until `all_started`."""
        with self._lock:
            self._coming = True
            self._over = False
            self._deadline = time.monotonic() + TIMEOUT

    def all_started(self) -> None:
        """Wait for no more clients."""
        with self._lock:
            self._coming = False
            self._changed.notify_all()
        self._finish(late=False)

    def add(self, session: Session) -> None:
        """Expect a handler to restore its state."""
        if request := session.ours:
            request.mute()
            request.wait_for_others = lambda: self._is_restored(session)
            with self._lock:
                self._unfinished.add(session)

    def discard(self, session: Session) -> None:
        """Wait no more for a handler: it has ended."""
        with self._lock:
            self._restored.discard(session)
            if session not in self._unfinished:
                return
            self._unfinished.discard(session)
            self._changed.notify_all()
        self._finish(late=False)

    def _is_restored(self, session: Session) -> None:
        with self._lock:
            self._unfinished.discard(session)
            self._restored.add(session)
            self._changed.notify_all()
        self._finish(late=False)
        self.wait()

    def wait(self) -> None:
        """Return when the state of all handlers is restored, or after `TIMEOUT`."""
        if self._over:
            return
        with self._lock:
            in_time = self._changed.wait_for(
                lambda: self._over, max(0.0, self._deadline - time.monotonic())
            )
        if not in_time:
            self._finish(late=True)

    def _finish(self, *, late: bool) -> None:
        with self._lock:
            if self._over or (not late and (self._coming or self._unfinished)):
                return
            unfinished = len(self._unfinished)
            restored, self._restored = self._restored, set()
            self._unfinished.clear()
            self._coming = False
            for session in restored:
                if request := session.ours:
                    request.unmute()
            if unfinished:
                events.NOT_RESTORED(handlers=unfinished, seconds=TIMEOUT)
            if restored:
                self._on_restored()
            self._over = True
            self._changed.notify_all()
