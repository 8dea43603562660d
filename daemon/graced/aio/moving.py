"""The handover of clients on a loop: their state and unsent bytes, from one process to the next."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager

from graced.handlers.movable import as_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from graced.aio.event_loop import EventLoop
    from graced.aio.session import Session


def frozen(
    session: Session, *, movable: bool, log_failure: Callable[[Session, BaseException], None]
) -> bool:
    """Take a client from its transport and its handler; False where that cannot be done.

    A client that has not reached its handler yet can always be taken.
    """
    if session.transport is None:
        if session.is_open or session.opening:
            return False
        session.is_frozen = True
        return True
    if not movable or session.is_told or not session.may_move:
        return False
    unsent = session.unsent
    if unsent is None:
        return False
    try:
        state = as_state(session.protocol.save())
    except BaseException as error:
        log_failure(session, error)
        return False
    session.client.unsent, session.client.saved = unsent, state
    session.note_activity()
    session.is_frozen = True
    # Its handler is not told: the connection goes on.
    session.transport.set_protocol(asyncio.Protocol())
    session.take_back()
    session.transport.abort()
    return True


@contextmanager
def after_unsent(transport: Any, unsent: bytes) -> Iterator[None]:
    """Send what the last process has not sent, before all that a handler writes in this context.

    The handler is asked to pause at the end, when it is connected and has its state.
    """
    if not unsent:
        yield
        return
    low, high = transport.get_write_buffer_limits()
    transport.set_write_buffer_limits(high=high + len(unsent))
    raised = transport.get_write_buffer_limits()
    transport.write(unsent)
    yield
    if transport.get_write_buffer_limits() == raised:
        # Otherwise the handler has limits of its own, and was asked then.
        transport.set_write_buffer_limits(high, low)


class Restoring:
    """Lets no handler go on before the state of all is restored.

    For the thread of the loop, except `begin` and `all_started`.
    """

    def __init__(
        self,
        event_loop: EventLoop,
        on_restored: Callable[[], None],
        start: Callable[[Session], None],
    ) -> None:
        """`on_restored` is called in the loop when the state of all is restored.

        `start`: gives a client to a handler.
        """
        self._event_loop = event_loop
        self._on_restored = on_restored
        self._start = start
        self._coming = False
        self._is_over = True
        self._unfinished: set[Session] = set()
        self._restored: set[Session] = set()
        self._new: list[Session] = []

    def begin(self) -> None:
        """Let all handlers wait: clients with a saved state come now, until `all_started`."""
        self._event_loop.post(self._begin)

    def _begin(self) -> None:
        self._coming, self._is_over = True, False

    def all_started(self) -> None:
        """Wait for no more clients."""
        self._event_loop.post(self._end)

    def _end(self) -> None:
        self._coming = False
        self._go_on()

    def expect(self, session: Session) -> None:
        """Wait for the state of a client."""
        self._unfinished.add(session)

    def holds(self, session: Session) -> bool:
        """Whether a new client waits; its handler starts when the others have their state."""
        if not self._is_over:
            self._new.append(session)
        return not self._is_over

    def restored(self, session: Session) -> bool:
        """Note that the handler of a client has its state; return whether it waits for others."""
        self._unfinished.discard(session)
        if self._is_over:
            return False
        self._restored.add(session)
        # Not here, in the context of this client: it is a call for all.
        self._event_loop.post(self._go_on)
        return True

    def forget(self, session: Session) -> None:
        """Wait no more for a client."""
        if session in self._unfinished:
            self._unfinished.discard(session)
            self._event_loop.post(self._go_on)
        self._restored.discard(session)

    def _go_on(self) -> None:
        if self._is_over or self._coming or self._unfinished:
            return
        self._is_over = True
        restored, self._restored = self._restored, set()
        new, self._new = self._new, []
        if restored:
            self._on_restored()
        for session in restored:
            if session.is_held:
                session.is_held = False
                session.resume_reading()
        for session in new:
            self._start(session)
