"""A reload in the old process: the new one gets ready, is committed to, and takes the clients.

The table of states (`graced.reload.old_side`) decides, and this module does what it says; whatever
concerns the service itself is left to a `Work`.  Clients are served meanwhile: no call waits for
the new process, or for the service manager.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from functools import partial
from time import monotonic

from graced.app import child
from graced.app.new_process import NewProcess
from graced.reload import batch
from graced.reload.channel import Channel
from graced.reload.old_side import HEARD, TABLE, Action, Event, State
from graced.reload.table import Message, step
from graced.reload.watch import is_ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from graced.app.launch import Launch
    from graced.loop.client import Client
    from graced.reload.channel import Letter

    class Work(Protocol):
        """What a reload wants of the service of the old process."""

        def offer(self, channel: Channel) -> None:
            """Send OFFER.  Raises `OSError` where it cannot be sent."""

        def name(self, pid: int) -> int:
            """Name the main process; return the descriptor that hangs up when that was read.

            The caller closes it.  Raises `OSError`.
            """

        def unname(self) -> None:
            """Withdraw the name, if it was not sent."""

        def commit(self, channel: Channel) -> None:
            """Be the main process no more, and send COMMIT.  Raises `OSError`."""

        def stop_accepting(self) -> None:
            """Accept no more clients; the listeners stay open."""

        def accept(self) -> None:
            """Be the main process again, and accept clients."""

        def freeze(self) -> Sequence[Client] | None:
            """Clients that are served no more, for the next batch; empty: none can move.

            None: nobody knows yet, and it is to be asked again.
            """

        def take_back(self, clients: Sequence[Client], *, stay: bool) -> None:
            """Serve clients of a batch again; `stay`: they belong to the rest."""

        def send_batch(self, channel: Channel, clients: Sequence[Client]) -> None:
            """Send BATCH.  Raises `OSError`."""

        def close_copies(self, clients: Sequence[Client]) -> None:
            """Close the sockets of clients that the new process serves."""

        def write_pid(self, pid: int) -> None:
            """Write the pid of the new process into the pidfile."""

        def send_moved(self, channel: Channel) -> None:
            """Send MOVED.  Raises `OSError`."""

        def report(self, reason: str) -> None:
            """Say how the reload went; empty: it was one."""

        def drain_rest(self) -> None:
            """Begin to drain the clients that are here."""

        def drain(self) -> None:
            """Begin the stop of the service."""

        def hurry(self) -> None:
            """End the drain soon: the service manager then starts the service again."""


FREEZE_INTERVAL = 0.05
"""Seconds between two looks whether a handler that is busy can save its state."""
NAMED_TIMEOUT = 5.0
"""Seconds in which the service manager has to read who the main process is."""
TAKEN_TIMEOUT = 10.0
"""Seconds in which the new process has to restore the state of a batch."""
_WAITING = {
    State.PREPARING: lambda: child.TIMEOUT,
    State.OFFERED: lambda: child.TIMEOUT,
    State.READY: lambda: NAMED_TIMEOUT,
    State.HOLDING: lambda: TAKEN_TIMEOUT,
}
"""The states in which an answer has to come in time, with the seconds."""
_COMMITTED = frozenset(
    {State.COMMITTED, State.MOVING, State.HOLDING, State.RELEASING, State.DRAINING_REST}
)


class Attempt:
    """One reload.  Main thread only; times are monotonic seconds."""

    def __init__(self, launch: Launch, work: Work) -> None:
        self.state = State.ALONE
        self.reason = ""
        """Why the reload has failed; empty: it has not."""
        self.due = math.inf
        """When `look` has something to do although nothing is readable."""
        self._launch = launch
        self._work = work
        self._new: NewProcess | None = None
        self._begun = 0.0
        self._named = -1
        """Hangs up when the service manager has read `MAINPID=`."""
        self._freezes = False
        """Whether the next batch is to be frozen."""
        self._batch: Sequence[Client] = ()
        self._letter: Letter | None = None
        """The last one."""
        self._actions = self._table_of_actions(work)
        self.has_died = False
        """Whether the new process is dead, and its messages are read."""
        self.restarts = False
        """Whether the new process hands the service over to the next start."""
        self.is_stopped = False
        """Whether it stops the service for good."""

    @property
    def watched(self) -> list[int]:
        """The descriptors that are readable when `look` has something to do."""
        found = self._new.watched if self._new else []
        return [*found, self._named] if self._named >= 0 else found

    @property
    def pid(self) -> int:
        """Of the new process; 0: there is none, or it has not said."""
        return self._new.pid if self._new else 0

    @property
    def has_committed(self) -> bool:
        """Whether the new process is the main process."""
        return self.state in _COMMITTED

    @property
    def is_reaped(self) -> bool:
        """Whether the service manager knows that the new process is gone."""
        return not self._new or self._new.is_reaped

    def begin(self) -> None:
        """Start the new process."""
        self._begun = monotonic()
        self._take(Event.RELOAD)
        if not self._new:
            self._take(Event.NEW_DIED)

    def look(self) -> None:
        """Do what is to be done now."""
        if self._freezes and monotonic() >= self.due:
            self._freeze()
        if not self._new:
            return
        letters, gone = self._new.look()
        for letter in letters:
            try:
                self._hear(letter)
            finally:
                letter.close()
        if gone and not self.has_died:
            self.has_died = True
            self._take(Event.NEW_DIED)
        elif self._named >= 0 and is_ready(self._named, 0):
            self._close_name()
            self._take(Event.NAMED)
        elif monotonic() >= self.due:
            self._time_out()

    def _hear(self, letter: Letter) -> None:
        if letter.message is Message.STOPPING:
            self.restarts = "restart" in letter.words
            self.is_stopped = not self.restarts
        event = HEARD.get(letter.message)
        if event and (self.state, event) in TABLE:
            self._letter = letter
            self._take(event)
        elif not self.has_committed:
            # Of another version, or wrong.
            self.give_up(f"the new process says {letter.message.name} out of turn")

    def _time_out(self) -> None:
        if self.state in {State.PREPARING, State.OFFERED}:
            if self._new and self._new.running and self._new.advances():
                self.due = monotonic() + child.TIMEOUT
            else:
                silence = monotonic() - self._begun
                self.give_up(f"the new process is not ready after {silence:.0f} s")
        elif self.state is State.READY:
            self.give_up(f"the service manager has read nothing for {NAMED_TIMEOUT:g} s")
        elif self.state is State.HOLDING:
            self.reason = f"the new process has not restored a batch in {TAKEN_TIMEOUT:g} s"
            self._take(Event.TIMEOUT)

    def give_up(self, reason: str) -> None:
        """Kill the new process, before the commit; `look` says when it is gone."""
        self.reason = self.reason or reason
        if self.state is not State.ABORTING:
            self._take(Event.TIMEOUT)

    def stop(self) -> bool:
        """A signal has come that stops the service; return whether to obey it here and now."""
        if self.state is not State.STOPPING:
            self._take(Event.STOP)
        return self.state is State.STOPPING

    def rest_gone(self) -> None:
        """The last client is gone, or closed at the deadline."""
        if self.state in {State.DRAINING_REST, State.STOPPING}:
            self._take(Event.REST_GONE)

    def close(self) -> None:
        """Let go of a new process that is gone, or that goes on without this one."""
        self._close_name()
        if self._new:
            self._new.__exit__(None, None, None)
            self._new = None

    def _take(self, event: Event) -> None:
        self.state, actions = step(TABLE, self.state, event)
        self.due = math.inf
        if self.state in _WAITING:
            self.due = monotonic() + _WAITING[self.state]()
        if self._freezes:
            self.due = 0.0
        for action in actions:
            self._actions[action]()

    def _table_of_actions(self, work: Work) -> dict[Action, Callable[[], None]]:
        return {
            Action.START_NEW: self._start_new,
            Action.SEND_OFFER: self._send_offer,
            Action.NAME_NEW: self._name_new,
            Action.SEND_COMMIT: self._commit,
            Action.STOP_ACCEPTING: work.stop_accepting,
            Action.ACCEPT: work.accept,
            Action.FREEZE: self._freeze_soon,
            Action.SEND_BATCH: self._send_batch,
            Action.TAKE_BACK_UNTAKEN: self._take_back_untaken,
            Action.SEND_RELEASED: partial(self._send, Message.RELEASED),
            Action.CLOSE_COPIES: self._close_copies,
            Action.SEND_REVOKED: partial(self._send, Message.REVOKED),
            Action.TAKE_BACK_BATCH: self._take_back_batch,
            Action.WRITE_NEW_PID: lambda: work.write_pid(self.pid),
            Action.SEND_MOVED: self._send_moved,
            Action.DRAIN_REST: work.drain_rest,
            Action.SEND_STOP: partial(self._send, Message.STOP),
            Action.DRAIN: work.drain,
            Action.HURRY: work.hurry,
            Action.KILL_NEW: self._kill_new,
            Action.REPORT_SUCCESS: partial(work.report, ""),
            Action.REPORT_FAILURE: self._report_failure,
            Action.EXIT: self.close,
        }

    def _start_new(self) -> None:
        try:
            self._new = NewProcess(self._launch)
        except OSError as error:
            self.reason = f"the new process cannot be started: {error.strerror or error}"

    def _commit(self) -> None:
        assert self._new
        self._new.leave()
        with suppress(OSError):
            # As in `_send`.
            self._work.commit(self._new.channel)

    def _kill_new(self) -> None:
        if self._named >= 0:
            self._work.unname()
        self._close_name()
        assert self._new
        self._new.kill()
        if self.state is State.STOPPING:
            self.close()

    def _freeze_soon(self) -> None:
        self._freezes, self.due = True, 0.0

    def _take_back_untaken(self) -> None:
        assert self._letter
        self._batch, others = batch.divide(self._batch, self._letter)
        self._work.take_back(others, stay=True)

    def _take_back_batch(self) -> None:
        self._work.take_back(self._batch, stay=False)
        self._batch = ()

    def _close_copies(self) -> None:
        self._work.close_copies(self._batch)
        self._batch = ()

    def _send(self, message: Message) -> None:
        assert self._new
        with suppress(OSError):
            # It is about to be gone, and `look` says why; or it hangs, and its watchdog ends it.
            self._new.channel.send(message)

    def _send_offer(self) -> None:
        assert self._new
        try:
            self._work.offer(self._new.channel)
        except (BrokenPipeError, ConnectionResetError):
            # It is about to be gone, and `look` says why.
            return
        except OSError as error:
            self.give_up(f"the listeners cannot be offered: {error.strerror}")

    def _name_new(self) -> None:
        try:
            self._named = self._work.name(self.pid)
        except OSError as error:
            self.give_up(f"the service manager cannot be told: {error.strerror}")

    def _close_name(self) -> None:
        if self._named >= 0:
            os.close(self._named)
            self._named = -1

    def _freeze(self) -> None:
        if self.state is State.MOVING:
            frozen = self._work.freeze()
            if frozen is None:
                self.due = monotonic() + FREEZE_INTERVAL
                return
            self._batch = frozen
        self._freezes = False
        self._take(Event.FROZEN if self._batch else Event.NOTHING_MOVABLE)

    def _send_batch(self) -> None:
        assert self._new
        try:
            self._work.send_batch(self._new.channel, self._batch)
        except (BrokenPipeError, ConnectionResetError):
            # It is gone, and `look` says so.
            return
        except OSError as error:
            self.reason = f"clients cannot be sent: {error.strerror}"
            self._take(Event.TIMEOUT)

    def _send_moved(self) -> None:
        assert self._new
        with suppress(OSError):
            # As in `_send`.
            self._work.send_moved(self._new.channel)

    def _report_failure(self) -> None:
        if self._new:
            self.reason = self.reason or self._new.reason
            # Of one that was the main process the end must be known to the service manager first.
            if self.state is State.ALONE and not self._new.was_left:
                self.close()
        self._work.report(self.reason)
