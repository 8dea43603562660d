"""The restoring of handlers: none goes on before the state of all is restored.

Otherwise a handler could write to a room, say, in which not everybody is back yet.  Handlers of
new clients wait as well.
"""

from __future__ import annotations

import time
from threading import Condition, Event, Lock, Thread

from graced.log import events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.handlers.session import Session

TIMEOUT = 10.0
"""Seconds after which the others go on without a handler whose `restore` has not returned, and
after which all go on without a hook ``restored`` that has not returned."""


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
        """`on_restored` is called in a thread of its own when the state of all is restored.

        No handler goes on before the call has returned.
        """
        self._on_restored = on_restored
        self._lock = Lock()
        self._changed = Condition(self._lock)
        self._coming = False
        self._unfinished: set[Session] = set()
        self._restored: set[Session] = set()
        self._in_hook = False
        self._over = True
        self._deadline = 0.0

    def begin(self) -> None:
        """Let all handlers wait: clients with a saved state come now, until `all_started`."""
        with self._lock:
            self._coming = True
            self._in_hook = self._over = False
            self._deadline = time.monotonic() + TIMEOUT

    def all_started(self) -> None:
        """Wait for no more clients."""
        with self._lock:
            self._coming = False
        self._finish()

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
            self._unfinished.discard(session)
        self._finish()

    def _is_restored(self, session: Session) -> None:
        with self._lock:
            self._unfinished.discard(session)
            if self._in_hook or self._over:
                # The others have not waited for this handler.
                _unmute(session)
            else:
                self._restored.add(session)
        self._finish()
        self.wait()

    def wait(self) -> None:
        """Return when the state of all handlers is restored, or after `TIMEOUT`."""
        while not self._over:
            with self._lock:
                left = self._deadline - time.monotonic()
                if not self._over and left > 0:
                    self._changed.wait(left)
            self._finish()

    def _finish(self) -> None:
        """Call the hook if nobody is to be waited for; go on if the hook is not."""
        with self._lock:
            late = time.monotonic() >= self._deadline
            waits = self._in_hook or self._coming or self._unfinished
            if self._over or (waits and not late):
                return
            if self._in_hook:
                reason = f"it has not returned after {TIMEOUT:g} s, the handlers go on"
                events.HOOK_FAILED(hook="restored", reason=reason)
                self._go_on()
                return
            if self._unfinished:
                events.NOT_RESTORED(handlers=len(self._unfinished), seconds=TIMEOUT)
            restored, self._restored = self._restored, set()
            self._unfinished.clear()
            self._coming = False
            for session in restored:
                _unmute(session)
            if not restored:
                self._go_on()
                return
            self._in_hook = True
            self._deadline = time.monotonic() + TIMEOUT
        # A hook that waits must hold up neither the thread of a client nor the main thread.
        thread = Thread(target=self._run_hook, name="restored", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The limit of tasks is reached.
            self._run_hook()

    def _run_hook(self) -> None:
        try:
            self._on_restored()
        finally:
            with self._lock:
                if self._in_hook:
                    self._go_on()

    def _go_on(self) -> None:
        self._in_hook, self._over = False, True
        self._changed.notify_all()


def _unmute(session: Session) -> None:
    if request := session.ours:
        request.unmute()
