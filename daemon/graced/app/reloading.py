"""The service of the old process in a reload: what `graced.app.attempt` wants of it.

A reload is asked for at the control socket, in a thread of its own; the main thread does the rest,
as one more thing that the supervisor attends to.
"""

from __future__ import annotations

import math
import os
from collections import deque
from contextlib import suppress
from time import monotonic

from graced.app.attempt import Attempt
from graced.control.subject import Reload
from graced.errors import PidFileError, StuckError
from graced.log import events
from graced.process.lifecycle import State
from graced.reload import batch
from graced.reload.counts import Counts
from graced.reload.old_side import State as Step
from graced.reload.table import Message
from graced.reload.watch import Watch
from graced.sockets.closing import close_quickly

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from signal import Signals

    from graced.app.claims import Claims
    from graced.app.control_socket import ControlSocket
    from graced.app.launch import Launch
    from graced.app.reloaded import Reloaded
    from graced.handover.fdstore import FdStore
    from graced.loop.client import Client
    from graced.process.supervisor import Supervisor
    from graced.reload.channel import Channel
    from graced.server import Server
    from graced.systemd.notify import Notifier

REAPED_TIMEOUT = 5.0
"""Seconds after which the service manager is spoken to, whether it has reaped the new process or
not."""
_LOOK_AGAIN = 0.02
"""Seconds between two looks whether it has."""
SETTLE_TIMEOUT = 5.0
"""Seconds in which handlers that are busy may reach a read, where they can save their state."""
LONGER = 10.0
"""Seconds, beyond the grace period, after which an old process hangs."""


class Reloading(Watch):
    """Reloads of one service, one after another.  Main thread only, but for `ask`."""

    def __init__(
        self,
        launch: Launch,
        server: Server,
        supervisor: Supervisor,
        notifier: Notifier,
        store: FdStore,
        claims: Claims,
        control: ControlSocket,
        *,
        handler: str,
        grace: float,
        stop: Callable[[], None],
        beside: Reloaded | None,
        mirrors: bool,
    ) -> None:
        """`handler`: the name.  `grace`: seconds.  `stop` lets `Supervisor.serve` return.

        `beside`: of the reload by which this process has begun.  `mirrors`: whether clients
        outlive a crash.  Raises `OSError`.
        """
        super().__init__()
        self._launch = launch
        self._server = server
        self._supervisor = supervisor
        self._notifier = notifier
        self._store = store
        self._claims = claims
        self._control = control
        self._handler = handler
        self._grace = grace
        self._stop = stop
        self._beside = beside
        self._mirrors = mirrors
        self._asked: deque[Reload] = deque()
        self._asked_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._reload: Reload | None = None
        """The one that is under way."""
        self._attempt: Attempt | None = None
        self._is_mute = False
        """Whether another process is the main process, or was until a moment ago."""
        self._speak_at = self._look_at = math.inf
        self._stay: set[int] = set()
        """The descriptors of clients that the new process could not have."""
        self._moved = 0
        self._settle_until = math.inf
        """Monotonic time until which handlers that are busy may save their state."""
        self._held: list[Client] = []
        """Clients of handlers, frozen, that no batch has had room for yet."""
        self._misnamed = ""
        """Why the pidfile does not name the new process."""
        self.has_moved = False
        """Whether this process drains the rest, and ends."""
        self._is_told = False
        """Whether the new process, the main process, was told to stop the service."""
        self._obeys = False
        """Whether this process obeys a signal that stops the service."""
        self.watch([self._asked_fd])

    def ask(self) -> Reload:
        """Ask for a reload.  Any thread may call."""
        reload = Reload()
        self._asked.append(reload)
        os.eventfd_write(self._asked_fd, 1)
        return reload

    # For the supervisor.

    @property
    def due(self) -> float:
        """Monotonic time of the next look although nothing is readable."""
        return min(self._look_at, self._attempt.due) if self._attempt else math.inf

    def look(self) -> None:
        """Begin what was asked for, and go on with what was begun."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._asked_fd)
        while self._asked:
            self._begin(self._asked.popleft())
        if self._attempt:
            self._attempt.look()
            if self._is_mute and self._attempt.has_died:
                self._speak_again(self._attempt)
            elif self._attempt.state is Step.ALONE:
                self._attempt = None
        self.watch([self._asked_fd, *(self._attempt.watched if self._attempt else ())])

    def _begin(self, reload: Reload) -> None:
        if reason := self._reason_against():
            self._end(reload, reason)
            return
        self._reload = reload
        self._stay.clear()
        self._moved = 0
        self._settle_until = math.inf
        self._supervisor.lifecycle.to(State.RELOADING)
        events.RELOADING()
        self._attempt = Attempt(self._launch, self)
        self._attempt.begin()

    def _reason_against(self) -> str:
        state = self._supervisor.lifecycle.state
        has_lock = self._claims.lock and not self._claims.lock.is_lost()
        reasons = {
            "another reload is under way": self._attempt,
            "the service stops": self._obeys,
            f"the service is {state.value}": state is not State.SERVING,
            "the old process of the last reload drains clients yet": (
                self._beside and self._beside.is_beside
            ),
            'a reload is not possible with keep = "always", only a restart': self._mirrors,
            "a reload is not possible with server.agent, only a restart": self._claims.agent,
            "there is no pidfile, which tells two processes apart": not has_lock,
            "the service manager does not listen": not self._notifier,
            "processes cannot be watched (pidfd_open(2))": not _can_watch_processes(),
        }
        return next((reason for reason, applies in reasons.items() if applies), "")

    @staticmethod
    def _end(reload: Reload, reason: str) -> None:
        reload.reason = reason
        reload.ended = True
        events.RELOAD_FAILED(reason=reason)

    def _speak_again(self, attempt: Attempt) -> None:
        """Be the main process again, by the pidfile, when the service manager knows it."""
        if self._speak_at == math.inf:
            self._speak_at = monotonic() + REAPED_TIMEOUT
        if not attempt.is_reaped and monotonic() < self._speak_at:
            self._look_at = monotonic() + _LOOK_AGAIN
            return
        self._speak_at = self._look_at = math.inf
        self._is_mute = False
        self._notifier.speak()
        self._supervisor.report_again()
        if attempt.state is Step.ALONE:
            self._store.reserve_again()
            attempt.close()
            self._attempt = None

    # For the end of the service.

    def lets_stop(self, signum: Signals) -> bool:
        """Whether to obey a signal that stops the service: False, if the other process has to."""
        if self._beside and not self._beside.lets_stop(signum):
            return False
        attempt = self._attempt
        self._obeys = True
        if not attempt or attempt.state is Step.ALONE or self.has_moved or self._is_told:
            return True
        if not attempt.stop():
            self._obeys = False
            return False
        self._supervisor.lifecycle.to(State.SERVING)
        if not attempt.has_died:
            # Not committed: the new process is no more.
            self._attempt = None
        return True

    def ends_beside(self) -> bool:
        """No client is left here; return whether another process serves, or the next start will."""
        attempt = self._attempt
        if not attempt:
            return False
        others = attempt.restarts or (self.has_moved and not attempt.is_stopped)
        if attempt.has_died and not others:
            self._claims.own()
        attempt.rest_gone()
        return others

    # For the attempt.

    def offer(self, channel: Channel) -> None:
        """Send OFFER: pidfile, stderr and listeners.  Raises `OSError`."""
        assert self._claims.lock
        passed = [each.sock.fileno() for each in self._claims.listeners if each.passed]
        own = [each.sock.fileno() for each in self._claims.listeners if not each.passed]
        about = {
            "listeners": len(own),
            "passed": len(passed),
            "goes_on": int(self._claims.next_start_goes_on()),
        }
        channel.send(
            Message.OFFER, about, descriptors=[self._claims.lock.fileno(), 2, *own, *passed]
        )

    def name(self, pid: int) -> int:
        """Say MAINPID=; return the descriptor that hangs up when that was read."""
        self._notifier.main_pid(pid)
        return self._notifier.begin_barrier()

    def unname(self) -> None:
        """Withdraw MAINPID=, if it was not sent."""
        self._notifier.name_no_main_process()

    def commit(self, channel: Channel) -> None:
        """Be the main process no more, and send COMMIT.  Raises `OSError`."""
        self._is_mute = True
        self._claims.share()
        self._control.disown_path()
        self._notifier.mute()
        channel.send(Message.COMMIT, data=self._counts())

    def stop_accepting(self) -> None:
        """Accept no more clients; the listeners stay open."""
        self._server.accept(again=False)

    def accept(self) -> None:
        """Accept clients again."""
        self._server.accept(again=True)

    def freeze(self) -> Sequence[Client] | None:
        """Clients that are served no more, for the next batch; None: handlers are busy yet.

        Those of the I/O threads come first, then those of the threads of handlers.
        """
        most = max(1, batch.MAX_CLIENTS // len(self._server.io_threads))
        try:
            if clients := self._server.freeze_batch(most, self._stay):
                return clients
        except StuckError as error:
            events.CANNOT_HAND_OVER(reason=error)
            return ()
        if self._settle_until == math.inf:
            self._settle_until = monotonic() + min(SETTLE_TIMEOUT, self._grace)
        if self._settle_until > 0:
            if self._server.settle() and monotonic() < self._settle_until:
                return None
            self._settle_until = 0.0
            self._held = self._server.freeze_handlers()
        clients, self._held = self._held[: batch.MAX_CLIENTS], self._held[batch.MAX_CLIENTS :]
        return clients

    def _serve_held(self) -> None:
        """Serve clients that were frozen, or have saved their state, for batches to come."""
        if 0 < self._settle_until < math.inf:
            self._server.resume()
        held, self._held = self._held, []
        if held:
            self._server.adopt(held)

    def send_batch(self, channel: Channel, clients: Sequence[Client]) -> None:
        """Send BATCH.  Raises `OSError`."""
        batch.send(channel, clients, self._handler)

    def take_back(self, clients: Sequence[Client], *, stay: bool) -> None:
        """Serve clients of a batch again."""
        if stay:
            self._stay.update(client.sock.fileno() for client in clients)
        else:
            self._serve_held()
        if clients:
            self._server.adopt(clients)

    def close_copies(self, clients: Sequence[Client]) -> None:
        """Close the sockets of clients that the new process serves."""
        self._moved += len(clients)
        close_quickly(client.sock for client in clients)

    def write_pid(self, pid: int) -> None:
        """Write the pid of the new process into the pidfile; without it the command fails."""
        assert self._claims.lock
        try:
            self._claims.lock.write(pid)
        except PidFileError as error:
            self._misnamed = str(error)

    def send_moved(self, channel: Channel) -> None:
        """Send MOVED: what remains here, until when, and the counts.  Raises `OSError`."""
        about = {
            "remaining": self._server.clients,
            "moved": self._moved,
            "within": math.ceil(self._grace + LONGER),
        }
        channel.send(Message.MOVED, about, self._counts())

    def _counts(self) -> bytes:
        return Counts(self._server.counts, self._store.tallies()).encode()

    def report(self, reason: str) -> None:
        """Say how the reload went; empty: it was one."""
        reload, attempt = self._reload, self._attempt
        assert reload
        assert attempt
        self._reload = None
        self._serve_held()
        reload.moved, reload.remaining = self._moved, self._server.clients
        reload.pid = attempt.pid
        if attempt.state is Step.ALONE:
            self._supervisor.lifecycle.to(State.SERVING)
            self._supervisor.note = f"; the last reload failed: {reason}"
            self._supervisor.report_again()
            if self._is_mute:
                self._claims.own()
                self._control.bind_again()
        if reason := reason or self._misnamed:
            self._end(reload, reason)
            return
        events.RELOADED(
            clients=self._moved,
            pid=attempt.pid,
            clients_left=self._server.clients,
            seconds=self._grace,
        )
        reload.ended = True

    def drain_rest(self) -> None:
        """Begin to drain the clients that are here."""
        self._serve_held()
        self.has_moved = True
        self._stop()

    def drain(self) -> None:
        """Begin the stop of the service."""
        self._serve_held()
        if self._reload:
            self._end(self._reload, "the service stops")
            self._reload = None
        if not self._obeys:
            self._is_told = True
            self._stop()

    def hurry(self) -> None:
        """End the drain soon."""
        self._supervisor.shorten_drain()


def _can_watch_processes() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True
