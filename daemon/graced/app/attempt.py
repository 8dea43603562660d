"""A reload in the old process, as far as it is built: until the new process is READY.

The table of states (`graced.reload.old_side`) decides, and this module does what it says.  Clients
are served meanwhile: no call waits.  Nothing uses this module yet; what follows READY is missing.
"""

from __future__ import annotations

import math
from time import monotonic

from graced.app import child
from graced.app.new_process import NewProcess
from graced.reload.old_side import HEARD, TABLE, Action, Event, State
from graced.reload.table import UnexpectedEventError, step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.app.launch import Launch
    from graced.reload.channel import Channel

_WAITING = frozenset({State.PREPARING, State.OFFERED})
"""The states in which the new process has something to do."""


class Attempt:
    """One reload.  Main thread only; times are monotonic seconds."""

    def __init__(self, launch: Launch, offer: Callable[[Channel], None]) -> None:
        """`offer` sends OFFER, and raises `OSError` where it cannot be sent."""
        self.state = State.ALONE
        self.reason = ""
        """Why the reload has failed; empty: it has not."""
        self.due = math.inf
        """When `look` has something to do although nothing is readable."""
        self._launch = launch
        self._offer = offer
        self._new: NewProcess | None = None
        self._begun = 0.0

    @property
    def watched(self) -> list[int]:
        """The descriptors that are readable when `look` has something to do."""
        return self._new.watched if self._new else []

    def begin(self) -> None:
        """Start the new process."""
        self._begun = monotonic()
        self._take(Event.RELOAD)
        if not self._new:
            self._take(Event.NEW_DIED)

    def look(self) -> None:
        """Do what is to be done now."""
        if not self._new:
            return
        letters, gone = self._new.look()
        for letter in letters:
            try:
                self._take(HEARD[letter.message])
            except (KeyError, UnexpectedEventError):
                # Of another version, or wrong; it is not the main process yet.
                self.give_up(f"the new process says {letter.message.name} out of turn")
            finally:
                letter.close()
        if gone:
            self._take(Event.NEW_DIED)
        elif monotonic() >= self.due:
            if self._new.running and self._new.advances():
                self.due = monotonic() + child.TIMEOUT
            else:
                silence = monotonic() - self._begun
                self.give_up(f"the new process is not ready after {silence:.0f} s")

    def give_up(self, reason: str) -> None:
        """Kill the new process, before the commit; `look` says when it is gone."""
        self.reason = self.reason or reason
        if self.state is not State.ABORTING:
            self._take(Event.TIMEOUT)

    def _take(self, event: Event) -> None:
        self.state, actions = step(TABLE, self.state, event)
        self.due = monotonic() + child.TIMEOUT if self.state in _WAITING else math.inf
        for action in actions:
            self._act(action)

    def _act(self, action: Action) -> None:
        match action:
            case Action.START_NEW:
                try:
                    self._new = NewProcess(self._launch)
                except OSError as error:
                    self.reason = f"the new process cannot be started: {error.strerror or error}"
            case Action.SEND_OFFER:
                assert self._new
                try:
                    self._offer(self._new.channel)
                except (BrokenPipeError, ConnectionResetError):
                    # It is about to be gone, and `look` says why.
                    return
                except OSError as error:
                    self.give_up(f"the listeners cannot be offered: {error.strerror}")
            case Action.KILL_NEW:
                assert self._new
                self._new.kill()
            case Action.REPORT_FAILURE:
                if self._new:
                    self.reason = self.reason or self._new.reason
                    self._new.__exit__(None, None, None)
                    self._new = None
