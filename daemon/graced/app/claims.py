"""The claims of a start: addresses and pidfile, which only one program can have at a time.

A first start is refused if one of its claims fails (69, 73, 75): the administrator who has typed
``systemctl start`` sees why.  systemd then starts the service again, two seconds later.  That
start, and every other start that inherits listeners or clients, *goes on*: it serves what it can,
and tries again to get the rest (`graced.app.late_claims`).  So the service comes back by itself
when the reason passes, nothing is logged again and again, and no client waits for a start that
never serves.

Names, interfaces and paths of Unix sockets may lead elsewhere while the service runs: such a claim
lasts, and a listener at a place that is configured no more is closed.
"""

from __future__ import annotations

import os
from functools import partial

from graced.app.settings import PID_FILE
from graced.errors import AlreadyRunningError, GracedError, ListenError, PidFileError
from graced.handover.fdstore import REFUSED
from graced.handover.inherited import to_turn_away
from graced.log import events
from graced.loop.phase import TOLD
from graced.sockets import binding
from graced.sockets.accepted import KeepAlive
from graced.sockets.inherited_listeners import retire
from graced.sockets.resolver import may_move
from graced.systemd import activation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack
    from ssl import SSLContext

    from graced.app.late_claims import LateClaims
    from graced.app.settings import Settings
    from graced.handover.inherited import Inherited
    from graced.process.pidfile import PidFile
    from graced.process.supervisor import Supervisor
    from graced.server import Server
    from graced.sockets.address import Address
    from graced.sockets.listener import Listener
    from graced.sockets.places import Places


class Claims:
    """The listeners and the pidfile of one service.  Main thread only."""

    def __init__(
        self, settings: Settings, pid_file: str | None, belongings: ExitStack, *, managed: bool
    ) -> None:
        """`belongings` gives up all claims at the end.  `managed`: by a service manager."""
        self.listeners: list[Listener] = []
        self.agent: list[Listener] = []
        """The listeners for agent checks: none is inherited, or handed over."""
        self.lock: PidFile | None = None
        self.context: SSLContext | None = None
        """Of TLS, where a listener speaks it."""
        self._settings = settings
        self._pid_file = os.path.abspath(pid_file) if pid_file else None
        self._belongings = belongings
        self._managed = managed
        self._goes_on = False
        """Whether the start goes on where a claim fails."""
        self._late: LateClaims | None = None
        self._places: Places | None = None
        """Where listeners are, if one of them is late or may move."""
        self._is_shared = False
        """Whether another process has the same pidfile and listeners, and needs them."""

    def claim(self, inherited: Inherited) -> None:
        """Claim pidfile and addresses; `inherited` listeners are used again.

        Raises `GracedError` where a claim fails, unless the start goes on.
        """
        self._claim_certificate()
        found = inherited.clients or inherited.listeners.sockets or REFUSED in inherited.names
        self._goes_on = self._managed and bool(found)
        self._belongings.callback(self._give_up_pid_file)
        if self._pid_file:
            try:
                self.lock = _lock(self._pid_file)
            except (PidFileError, AlreadyRunningError) as error:
                self._go_on_without_lock(error)
        self._claim_listeners(inherited)

    def claim_beside(self, inherited: Inherited, locked: int, *, goes_on: bool) -> None:
        """The same in the new process of a reload: the old one serves from `inherited` listeners.

        `locked`: the descriptor of the pidfile.  `goes_on`: without what the old one has not, too.
        Raises `GracedError`.
        """
        self._claim_certificate()
        self._goes_on = goes_on
        self._is_shared = True
        if not self._pid_file:
            os.close(locked)
            raise PidFileError("a reload needs a pidfile")
        self.lock = _new_lock(self._pid_file, locked)
        self._belongings.callback(self._give_up_pid_file)
        self._claim_listeners(inherited)

    def share(self) -> None:
        """Leave pidfile and paths, at the end of this process, to another that serves there."""
        self._is_shared = True
        for each in self.listeners:
            each.disown_path()

    def own(self) -> None:
        """Give up pidfile and paths at the end of this process: no other serves there."""
        self._is_shared = False
        for each in self.listeners:
            each.own_path()

    def _claim_certificate(self) -> None:
        if self._settings.has_tls:
            from graced.app.certificates import context_of  # noqa: PLC0415

            self.context = context_of(self._settings, os.environ)

    def _claim_listeners(self, inherited: Inherited) -> None:
        self.listeners = self._listen(inherited)
        for each in self.listeners:
            self._belongings.callback(each.close)
        self.agent = self._listen_for_checks()
        for each in self.agent:
            self._belongings.callback(each.close)

    def _listen_for_checks(self) -> list[Listener]:
        agent = self._settings.agent
        if not agent:
            return []
        from graced.control.agent import BACKLOG  # noqa: PLC0415

        refused: list[tuple[Address, ListenError]] = []
        bound = binding.bind([agent], BACKLOG, refused=refused if self._goes_on else None)
        for _, error in refused:
            self._claim_late(error=error)
        return bound

    def _listen(self, inherited: Inherited) -> list[Listener]:
        settings = self._settings
        if inherited.others:
            unfit: list[ListenError] = []
            passed = activation.adopt(
                inherited.others, self.keepalive, unfit if self._goes_on else None
            )
            for error in unfit:
                self._claim_late(error=error)
            ports = {each.port for each in settings.listen if each.tls}
            for each in passed:
                name = each.sock.getsockname()
                if isinstance(name, tuple) and name[1] in ports:
                    each.secure()
            return passed
        if len(settings.listen) > 1 or settings.agent:
            from graced.app import occupancy  # noqa: PLC0415

            occupancy.refuse_overlaps(settings.listen, settings.agent, resolve=not self._managed)
        unresolved: list[Address] = []
        refused: list[tuple[Address, ListenError]] = []
        bound = binding.bind(
            settings.listen,
            settings.backlog,
            inherited.listeners,
            self.keepalive,
            unresolved=unresolved if self._managed else None,
            refused=refused if self._goes_on else None,
        )
        if not (refused or any(may_move(each) for each in settings.listen)):
            return bound
        from graced.sockets.places import Places  # noqa: PLC0415

        self._places = Places(settings.listen, bound)
        served = {each.name.rpartition(":")[2] for each in bound if each.inherited}
        for address in settings.listen:
            refusal = next((error for each, error in refused if each is address), None)
            late = any(each is address for each in unresolved)
            if refusal or late or may_move(address):
                self._claim_late(
                    address,
                    refusal,
                    self._bind_again(address),
                    asked=not (late and str(address.port) in served),
                    lasts=may_move(address),
                    missing=bool(refusal or late),
                )
        return bound

    def _bind_again(self, address: Address) -> Callable[[], list[Listener]]:
        """For the thread of the late claims."""
        places = self._places
        assert places
        os.umask(umask := os.umask(0))

        def attempt() -> list[Listener]:
            if address.path:
                last = places.last_at(address.path, self.listeners)
                if last and not last.has_lost_path():
                    return []
            return binding.bind_late(address, self._settings.backlog, self.keepalive, places, umask)

        return attempt

    def _claim_late(
        self,
        address: Address | None = None,
        error: GracedError | None = None,
        attempt: Callable[[], list[Listener] | PidFile] | None = None,
        **more: bool,
    ) -> None:
        from graced.app.late_claims import Claim, LateClaims  # noqa: PLC0415

        self._late = self._late or LateClaims()
        self._late.add(Claim(address, error, attempt, **more))

    @property
    def keepalive(self) -> KeepAlive:
        """The setting for clients of TCP."""
        settings = self._settings
        return KeepAlive(
            idle=settings.keepalive_idle,
            interval=settings.keepalive_interval,
            count=settings.keepalive_count,
            user_timeout=settings.user_timeout,
        )

    def write_pid(self) -> None:
        """Write the pid of this process.  Raises `PidFileError`, unless the start goes on."""
        if self.lock:
            try:
                self.lock.write()
            except PidFileError as error:
                self._go_on_without_lock(error)

    def _go_on_without_lock(self, error: GracedError) -> None:
        if not self._goes_on:
            raise error
        self._claim_late(error=error, attempt=self._lock_again)

    def _give_up_pid_file(self) -> None:
        if self.lock and self._is_shared:
            self.lock.leave()
        elif self.lock:
            self.lock.remove()

    @property
    def missing(self) -> str:
        """The failed claims, as words of the status line; empty: none has failed."""
        return self._late.missing if self._late else ""

    def next_start_goes_on(self) -> bool:
        """Whether the next start, which inherits listeners, finds the same claims missing.

        Or claims that were lost meanwhile: another program has taken the path of a Unix socket, or
        the directory of the pidfile has become read-only.
        """
        lost = (self.lock and self.lock.is_lost()) or any(
            each.has_lost_path() for each in self.listeners
        )
        return bool(self.listeners and (self.missing or lost))

    def prepare(self) -> None:
        """Make sure that `try_again` cannot fail.  Raises `StartError`."""
        if self._late:
            self._late.prepare()
            self._belongings.callback(self._late.stop)

    def try_again(
        self,
        server: Server,
        supervisor: Supervisor,
        added: Callable[[Sequence[Listener]], None],
    ) -> None:
        """Begin to try the failed claims again.  `added` is called with new listeners."""
        late = self._late
        if not late:
            return

        def look() -> None:
            found = late.look()
            for got in found:
                if not isinstance(got, list):
                    self.lock = got
                elif got:
                    self.listeners += got
                    for each in got:
                        self._belongings.callback(each.close)
                    added(got)
                    server.listen(got)
            if found and self._places:
                self._leave(self._places, server)
            supervisor.missing = late.missing

        supervisor.on_change = look
        look()
        late.start(partial(os.eventfd_write, server.changed_fd, 1))

    def _leave(self, places: Places, server: Server) -> None:
        """Close the listeners that are at no place of the configuration any more."""
        from graced.sockets.places import why_deserted  # noqa: PLC0415

        for each in places.deserted(self.listeners):
            if server.unlisten(each):
                reason = why_deserted(each)
                self.listeners.remove(each)
                places.leave(each)
                each.disown_path()
                queued = to_turn_away(retire(each.sock))
                for client in queued if each.tls else ():
                    # No word of ours would be a record.
                    client.told = TOLD
                server.adopt(queued)
                events.LISTENER_LEFT(address=each.name, reason=reason)

    def _lock_again(self) -> PidFile:
        """In the thread of the late claims.  Raises `GracedError`."""
        assert self._pid_file
        lock = self.lock or _new_lock(self._pid_file)
        try:
            lock.write()
        except GracedError:
            if lock is not self.lock:
                lock.remove()
            raise
        return lock

    def stop(self) -> None:
        """Claim nothing more."""
        if self._late:
            self._late.stop()


def _lock(path: str) -> PidFile:
    try:
        return _new_lock(path)
    except PidFileError as error:
        if path == PID_FILE and os.geteuid():
            # The path belongs to the service of the package.
            raise PidFileError(f"{error}; name another with --pid-file") from None
        raise


def _new_lock(path: str, locked: int = -1) -> PidFile:
    # A start without a pidfile does without this module.
    from graced.process.pidfile import PidFile  # noqa: PLC0415

    return PidFile(path, locked)
