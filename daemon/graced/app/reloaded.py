"""The new process of a reload: gets ready beside the old one, and takes its clients.

The table of states (`graced.reload.new_side`) decides, and this module does what it says.  Until
COMMIT the process waits for the old one and does nothing else; afterwards it serves, and what the
old process says is one more thing that the supervisor attends to.
"""

from __future__ import annotations

import math
import os
import select
import signal
import socket
from contextlib import suppress
from functools import partial
from time import monotonic

from graced import __version__
from graced.app import asking
from graced.app.offer import Offer
from graced.errors import GracedError, StartError
from graced.handlers import registry
from graced.handover.inherited import is_new
from graced.handover.snapshot import SnapshotError
from graced.log import events
from graced.log.event import plural
from graced.reload import batch, counts
from graced.reload.new_side import HEARD, TABLE, Action, Event, State
from graced.reload.table import Message, step
from graced.reload.watch import Watch, is_ready
from graced.signals import END, HANDOVER
from graced.sockets.accepted import set_up_inherited

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from signal import Signals

    from graced.app.claims import Claims
    from graced.app.offer import Invitation
    from graced.handlers.registry import Handler
    from graced.loop.client import Client
    from graced.process.supervisor import Supervisor
    from graced.process.tallies import Tallies
    from graced.reload.channel import Letter
    from graced.server import Server
    from graced.signals import SignalInbox
    from graced.systemd.notify import Notifier

SILENCE = 90.0
"""Seconds without a message after which an old process that moves clients hangs."""
_BEFORE_COMMIT = frozenset({State.PREPARING, State.CONFIGURED, State.OFFERED, State.READY})
_MOVING = frozenset({State.MOVING, State.HOLDING})
_BESIDE = _MOVING | {State.DRAINING_REST}


class Reloaded(Watch):
    """The part of the new process in one reload.  Main thread only."""

    def __init__(self, invitation: Invitation) -> None:
        super().__init__()
        self.state = State.PREPARING
        self.due = math.inf
        """Monotonic time at which the old process is late."""
        self.held = invitation.held
        self._channel = invitation.channel
        self._old = invitation.old
        self._claim: Callable[[Offer], None]
        self._accept: Callable[[], None]
        self._notifier: Notifier
        self._inbox: SignalInbox
        self._server: Server
        self._supervisor: Supervisor
        self._claims: Claims
        self._tallies: Tallies
        self._counted = counts.Counts()
        """What the old process had counted when it said so last."""
        self._handler: Handler | None = None
        self._batch: list[Client] = []
        self._untaken: list[Client] = []
        self._letter: Letter | None = None
        """The last one."""
        self._reason = ""
        self._actions = self._table_of_actions()
        self._later: Signals | None = None
        """A signal to hand over, which waits until the clients have moved."""
        self._obeys = False
        """Whether this process obeys a signal that stops the service."""
        self._restarts = False
        """Whether that signal asks for a handover."""
        self._has_died = False
        """Whether the old process is dead, and its messages are read."""

    @property
    def descriptors(self) -> tuple[int, int, int]:
        """Those that have to stay open over the fork."""
        return self._channel.fileno(), self._old, self.fileno()

    # Before the commit.

    def get_offer(self, inbox: SignalInbox, claim: Callable[[Offer], None]) -> bool:
        """Say HELLO, and `claim` what is offered; False: the old process does not want it.

        Raises what `claim` raises.
        """
        self._inbox = inbox
        self._claim = claim
        self._take(Event.CONFIGURED)
        return self._wait_while(State.CONFIGURED)

    def get_ready(self, notifier: Notifier, accept: Callable[[], None]) -> bool:
        """Say READY, and `accept` clients after the commit; False: there is none."""
        self._notifier = notifier
        self._accept = accept
        self._take(Event.COMPLETE)
        return self._wait_while(State.READY, State.ASKING)

    def refuse(self, error: BaseException) -> None:
        """Tell the old process why this one cannot serve."""
        if (self.state, Event.REFUSED) in TABLE:
            self._reason = str(error) if isinstance(error, GracedError) else repr(error)
            self._take(Event.REFUSED)

    def _wait_while(self, *states: State) -> bool:
        # And not for the next state: the letters that come together may lead beyond it.
        while self.state in states:
            poll = select.poll()
            poll.register(self._old, select.POLLIN)
            poll.register(self._inbox, select.POLLIN)
            if not self._channel.ended:
                poll.register(self._channel, select.POLLIN)
            poll.poll()
            if any(signum in END for signum in self._inbox.take()):
                self._take(Event.STOP)
            else:
                self._hear_old()
        return self.state is not State.ENDED

    # After the commit.

    def begin(
        self,
        server: Server,
        supervisor: Supervisor,
        claims: Claims,
        tallies: Tallies,
        handler: Handler | None,
    ) -> None:
        """Serve the clients that the old process sends, from now on.  Before `accept` returns."""
        self._server = server
        self._supervisor = supervisor
        self._claims = claims
        self._tallies = tallies
        self._handler = handler
        self._go_on_counting()
        self.due = monotonic() + SILENCE
        supervisor.attend(self)
        self._watch_old()

    @property
    def is_beside(self) -> bool:
        """Whether there is an old process."""
        return not self._has_died

    def look(self) -> None:
        """Do what the old process says."""
        if self._has_died:
            return
        self._hear_old()
        if monotonic() >= self.due and not self._has_died:
            self.due = monotonic() + SILENCE
            self._take(Event.OVERDUE)
        self._watch_old()

    def _watch_old(self) -> None:
        if self._has_died:
            self.due = math.inf
            self.watch([])
        elif self._channel.ended:
            self.watch([self._old])
        else:
            self.watch([self._old, self._channel.fileno()])

    def lets_stop(self, signum: Signals) -> bool:
        """Whether to obey a signal that stops the service now; a handover waits for clients."""
        if self.state not in _BESIDE:
            return True
        if signum is HANDOVER and self.state in _MOVING:
            self._later = signum
            return False
        self._obeys = True
        self._restarts = signum is HANDOVER
        self._take(Event.STOP)
        return True

    # What happens.

    def _hear_old(self) -> None:
        # Before the letters are read: then they are all that it has said.
        gone = is_ready(self._old)
        while letter := self._channel.receive():
            try:
                self._hear(letter)
            finally:
                letter.close()
        if gone and not self._has_died and self.state is not State.ENDED:
            self._has_died = True
            self._take(Event.OLD_DIED)
            self._old_is_gone()

    def _old_is_gone(self) -> None:
        if self.state is State.STOPPING:
            self._claims.own()
        elif self.state is State.ALONE:
            self._supervisor.note = ""
            self._obey_later()

    def _obey_later(self) -> None:
        if self._later:
            self._inbox.put(self._later)
            self._later = None

    def _hear(self, letter: Letter) -> None:
        event = HEARD.get(letter.message)
        if not event or (self.state, event) not in TABLE:
            # Of another version, or wrong.
            if self.state in _BEFORE_COMMIT:
                raise StartError(f"the old process says {letter.message.name} out of turn")
            return
        self._letter = letter
        self._take(event)
        if self.state in _MOVING:
            self.due = monotonic() + SILENCE
        if letter.message is Message.MOVED:
            self._note_moved(letter)

    def _note_moved(self, letter: Letter) -> None:
        self.due = monotonic() + letter.number("within")
        self._go_on_counting()
        remaining = letter.number("remaining")
        self._supervisor.note = f"; the old process drains {plural(remaining, 'client')}"
        self._obey_later()

    def _go_on_counting(self) -> None:
        """Add what the old process has counted since it said so last."""
        assert self._letter
        now = counts.of(self._letter)
        new, self._counted = now - self._counted, now
        self._tallies.go_on(new.tallies, self._server.admission)
        self._server.restore_counts(new.server)

    def _take(self, event: Event) -> None:
        self.state, actions = step(TABLE, self.state, event)
        for action in actions:
            self._actions[action]()

    def _table_of_actions(self) -> dict[Action, Callable[[], None]]:
        return {
            Action.SEND_HELLO: self._send_hello,
            Action.CLAIM: self._take_offer,
            Action.SEND_READY: partial(self._send, Message.READY),
            Action.SEND_FAILED: self._send_failed,
            Action.ASK_MANAGER: self._ask_manager,
            Action.ACCEPT: self._begin_to_accept,
            Action.SEND_ACCEPTING: partial(self._send, Message.ACCEPTING),
            Action.RESTORE: self._restore,
            Action.SEND_TAKEN: self._send_taken,
            Action.SEND_SERVING: partial(self._send, Message.SERVING),
            Action.SERVE_BATCH: self._serve_batch,
            Action.DROP_UNTAKEN: partial(_close, self._untaken),
            Action.TELL_UNTAKEN: partial(self._turn_away, self._untaken),
            Action.DROP_BATCH: self._drop_batch,
            Action.WRITE_PID: self._write_pid,
            Action.KILL_OLD: self._kill_old,
            Action.SEND_STOPPING: self._send_stopping,
            Action.DRAIN: self._drain,
            # The service does, when the caller has returned.
            Action.EXIT: lambda: None,
        }

    def _send_hello(self) -> None:
        self._send(Message.HELLO, pid=os.getpid(), version=__version__)

    def _take_offer(self) -> None:
        assert self._letter
        self._claim(Offer(self._letter))

    def _send_failed(self) -> None:
        with suppress(OSError):
            # Then the command says the reason.
            self._channel.send(
                Message.FAILED, data=self._reason.encode("utf-8", "backslashreplace")
            )

    def _ask_manager(self) -> None:
        self._take(Event.IS_MAIN if self._is_main() else Event.IS_NOT_MAIN)

    def _begin_to_accept(self) -> None:
        self._speak()
        self._accept()

    def _send_taken(self) -> None:
        with suppress(OSError):
            # It is about to be gone, and its descriptor says so.
            batch.answer(self._channel, self._batch)

    def _drop_batch(self) -> None:
        _close(self._batch)
        _close(self._untaken)

    def _kill_old(self) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._old, signal.SIGKILL)

    def _send_stopping(self) -> None:
        self._send(Message.STOPPING, **({"restart": 1} if self._restarts else {}))

    def _drain(self) -> None:
        if not self._obeys:
            self._inbox.put(signal.SIGTERM)

    def _send(self, message: Message, **words: object) -> None:
        with suppress(OSError):
            # It is about to be gone, and its descriptor says so; or it hangs, and is overdue.
            self._channel.send(message, words)

    def _restore(self) -> None:
        """Sort the clients of a batch into those that can be served here, and the others."""
        assert self._letter
        try:
            snapshot = batch.receive(self._letter)
        except (SnapshotError, OSError) as error:
            events.NOT_INHERITED(reason=error)
            return
        ours = snapshot.handler == registry.name_of(self._handler)
        can_restore = bool(self._handler and self._handler.movable)
        room = self._server.admission.max_clients - self._server.clients
        for client in snapshot.clients:
            if ours:
                able = client.saved is None or can_restore
            else:
                able = is_new(client)
                client.saved = None if able else client.saved
            if able and len(self._batch) < room:
                self._batch.append(client)
            else:
                self._untaken.append(client)

    def _serve_batch(self) -> None:
        if self.state is State.STOPPING:
            self._turn_away(self._batch)
        elif self._batch:
            for client in self._batch:
                if client.sock.family != socket.AF_UNIX:
                    # The configuration may be another than that of the old process.
                    set_up_inherited(client.sock, self._claims.keepalive)
            self._server.adopt(self._batch)
            self._batch.clear()

    def _turn_away(self, clients: list[Client]) -> None:
        for client in clients:
            client.counted = False
        if clients:
            self._server.adopt(clients)
            clients.clear()

    def _write_pid(self) -> None:
        try:
            self._claims.write_pid()
        except GracedError as error:
            events.CLAIM_REFUSED(reason=error, outlook="the service serves all the same")
        self._claims.own()

    def _speak(self) -> None:
        if not self._notifier:
            for name in ("NOTIFY_SOCKET", "JOURNAL_STREAM"):
                if name in self.held:
                    os.environ[name] = self.held[name]
            self._notifier.speak()

    def _is_main(self) -> bool:
        self._speak()
        found = asking.is_main(self._notifier)
        if not found:
            self._notifier.mute()
        return found


def _close(clients: list[Client]) -> None:
    while clients:
        clients.pop().sock.close()
