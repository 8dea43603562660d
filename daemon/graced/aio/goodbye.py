"""The goodbye to the clients on a loop, each of which is told once, when it is at rest.

A declared farewell is written to the transport.  Where none is declared the input of the connection
ends: the transport finds end of file, and tells the protocol, the reader, or the TLS in between.

Nothing wakes the loop when a client comes to rest, as nothing of ours is in the way of a message.
So the loop looks again after each gap, in the drain only; and sooner while a client talks, which is
at rest for moments only: it is told when a look finds one of them.
"""

from __future__ import annotations

import math
from contextlib import suppress
from socket import MSG_PEEK
from time import monotonic

from graced.loop.farewell import MIN_REMIND_INTERVAL
from graced.loop.phase import ANSWERED, INPUT_ENDED, TOLD
from graced.loop.policy import parts_until
from graced.sockets.closing import discard, end_input, part

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection
    from typing import Any

    from graced.aio.session import Session
    from graced.loop.policy import AtOnce
    from graced.loop.turns import Turns

TALKING_INTERVAL = 0.02
"""Seconds between two looks while a client talks."""
TURN_INTERVAL = 0.1
"""Seconds between two looks at least that are made for a client's turn."""
LOOK_TIME = 0.0001
"""Seconds of that interval for each client, which a look costs some system calls."""
LONGEST_HOLD = 1.0
"""Seconds, besides the gap, that a client is not read at most before it is told."""


class Goodbye:
    """Says goodbye to each client.  For the thread of the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        farewell: bytes | None,
        words: Callable[[Any], bytes | None] | None,
        gap: float,
        turns: Turns | AtOnce,
        *,
        deadline: Callable[[], float | None],
        fail: Callable[[Session, BaseException], None],
    ) -> None:
        """`farewell`, `gap`, `turns`: see `graced.loop.policy`.  `words`: see `Handler`.

        `deadline` returns the monotonic time of the deadline, once the drain has begun.
        `fail` logs an exception of the handler and ends its client.
        """
        self.draining = False
        self._deadline = deadline
        self._loop = loop
        self._farewell = farewell
        self._words = words
        self._gap = gap
        self._turns = turns
        self._fail = fail
        self._until = math.inf
        """Monotonic time from which on a timed call is no part of an answer."""
        self._watched: set[Session] = set()
        """Clients that are not told yet, or not read because the farewell stands alone."""
        self._is_due = False
        self._anybody_talks = False

    def drain(self, sessions: Collection[Session], last: float) -> None:
        """Tell the clients that are at rest, and each other client as soon as it is at rest.

        Each is looked at from its turn on, the last from `last` on.
        """
        self.draining = True
        self._until = parts_until(self._deadline() or monotonic())
        self._turns.begin(last)
        self._watched.update(self._turns.give(sessions))
        self._look()

    def watch(self, session: Session) -> None:
        """Tell a client that has come since."""
        self._watched.update(self._turns.give([session]))
        self._look_soon()

    def tell(self, session: Session) -> None:
        """Tell a client alone, in the drain or not."""
        self._watched.add(session)
        self._look_soon()

    def forget(self, session: Session) -> None:
        """Look no more at a client."""
        self._watched.discard(session)
        self._turns.discard(session)

    def _look_soon(self) -> None:
        next_turn = self._turns.next
        if (self._watched or next_turn < math.inf) and not self._is_due:
            self._is_due = True
            pause = max(self._gap, MIN_REMIND_INTERVAL)
            # A look is at all that are watched, and so not made for each turn.
            pause = min(pause, max(TURN_INTERVAL, next_turn - monotonic()))
            if self._anybody_talks:
                pause = min(pause, max(TALKING_INTERVAL, LOOK_TIME * len(self._watched)))
            self._loop.call_later(pause, self._look_again)

    def _look_again(self) -> None:
        self._is_due = False
        self._look()

    def _look(self) -> None:
        self._anybody_talks = False
        self._watched.update(self._turns.take())
        for session in list(self._watched):
            if not session.is_open and session.transport:
                self._watched.discard(session)
            elif session.is_told:
                self._consider_reading(session)
            elif session.hold:
                self._consider_hold(session, session.hold)
            elif session.is_at_rest(self._until):
                if session.silence >= self._gap and not session.is_pending:
                    self._tell(session)
                elif session.transport.is_reading():
                    # A client that never pauses would never be told.
                    session.hold = (session.written, monotonic())
                    session.transport.pause_reading()
            elif session.transport and session.silence < self._gap:
                self._anybody_talks = True
            if session.is_told and not session.is_unread:
                self._watched.discard(session)
        self._look_soon()

    def _consider_hold(self, session: Session, hold: tuple[int, float]) -> None:
        """Tell a client that was not read for the gap, unless its handler has gone on speaking."""
        written, since = hold
        held = monotonic() - since
        is_late = held > self._gap + LONGEST_HOLD
        if is_late or session.written != written or session.works(self._until):
            self._release(session)
        elif held >= self._gap and not session.is_pending:
            self._tell(session)

    def _release(self, session: Session) -> None:
        if session.hold:
            session.hold = None
            session.resume_reading()

    def _tell(self, session: Session) -> None:
        try:
            has_input = bool(session.sock.recv(1, MSG_PEEK))
        except BlockingIOError:
            has_input = False
        except OSError:
            # The transport finds the error.
            self._release(session)
            return
        if has_input and session.transport.is_reading():
            # It has come this moment, and is answered first.
            return
        words = self._words_for(session)
        if session.transport.is_closing():
            return
        if words:
            session.client.told = TOLD
            session.transport.write(words)
            session.is_unread = session.hold is not None or session.transport.is_reading()
            session.hold = None
            session.transport.pause_reading()
            return
        if has_input and session.hold and not self._words:
            # As above.  A method of the handler has spoken, and is not asked again.
            self._release(session)
            return
        self._release(session)
        session.client.told = INPUT_ENDED
        end_input(session.sock)

    def _words_for(self, session: Session) -> bytes | None:
        """The farewell that is declared for a client; None: its input ends."""
        if session.transport.get_protocol() is not session.protocol:
            # TLS has begun, or another protocol, of which the handler has declared nothing.
            return None
        if self._words is None:
            return self._farewell
        try:
            return self._words(session.protocol)
        except BaseException as error:
            self._fail(session, error)
            return None

    def _consider_reading(self, session: Session) -> None:
        """Read the client again, a gap after its first bytes that came after the farewell."""
        if not session.is_unread:
            return
        now = monotonic()
        if session.read_at is None:
            try:
                has_input = bool(session.sock.recv(1, MSG_PEEK))
            except BlockingIOError:
                return
            except OSError:
                has_input = False
            session.read_at = now + self._gap if has_input else now
        if now >= session.read_at:
            session.is_unread = False
            session.client.told = ANSWERED
            session.resume_reading()

    def end(self, session: Session) -> None:
        """Send a declared farewell to a client at rest, and end of file, at the deadline."""
        words = b""
        if not session.is_told and session.is_at_rest(-math.inf):
            words = self._words_for(session) or b""
        with suppress(OSError):
            # The client may have departed, or take nothing: it is closed all the same.
            part(session.sock, words)
        discard(session.sock)
