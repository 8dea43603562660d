"""The composition root: settings become a running service here, and nothing below knows them."""

from __future__ import annotations

import os
from contextlib import ExitStack
from time import monotonic

from graced.app.settings import Settings
from graced.errors import HANDED_OVER, FailedError, GracedError, StartError
from graced.handlers import registry
from graced.handlers.registry import Handler
from graced.handover.fdstore import LISTENERS, MIRRORED, FdStore
from graced.handover.inherited import Inherited
from graced.handover.mirror import Mirror
from graced.log import events, sinks, writer
from graced.log.event import plural
from graced.log.writer import Log
from graced.loop.acceptor import MAX_LINGERING
from graced.loop.admission import Admission
from graced.loop.policy import Policy
from graced.process import daemonize, limits
from graced.process.daemonize import Parent
from graced.process.pidfile import PidFile
from graced.process.supervisor import Supervisor
from graced.server import Blocking, Server, default_io_threads
from graced.signals import HANDOVER, SignalInbox
from graced.sockets import listener
from graced.sockets.listener import Listener
from graced.systemd.notify import Notifier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from socket import socket
    from typing import Any


def run(
    settings: Settings, *, pid_file: str | None, daemon: bool, check: Callable[[], object]
) -> int:
    """Serve until told to stop; with `daemon`, return in the parent when the daemon serves.

    `check` raises `GracedError` where the next start would refuse its configuration.
    Return the exit status.  Raises `GracedError`; where it is a `FailedError` it has been logged.
    """
    with ExitStack() as belongings:
        # First of all: whatever is opened from here on is ours, and survives the fork.
        inherited = daemonize.open_descriptors() if daemon else frozenset()
        log = writer.open_log(settings.level, sinks.sink_for(detached=False))
        belongings.callback(log.stop)
        try:
            service = Service(settings, pid_file, log, belongings, check)
            return service.serve_detached(inherited) if daemon else service.serve()
        except GracedError:
            raise
        except BaseException as error:
            events.FAILED(reason=repr(error), exc_info=error)
            raise FailedError(repr(error)) from error


class Service:
    """What a running service holds, from the listeners to the log.  Main thread only."""

    def __init__(
        self,
        settings: Settings,
        pid_file: str | None,
        log: Log,
        belongings: ExitStack,
        check: Callable[[], object],
    ) -> None:
        """Take hold of everything that can be refused, on the terminal of who starts us.

        `belongings` gives it up at the end.  Raises `GracedError`.
        """
        self._settings = settings
        self._log = log
        self._belongings = belongings
        self._check = check
        if not registry.is_built_in(settings.handler):
            # Only somebody else's uses `logging`, maybe as soon as it is imported.
            from graced.log import bridge  # noqa: PLC0415

            bridge.install(log)
        passed = listener.passed(os.environ, os.getpid())
        self._passed = {fd for fd, _ in passed}
        limits.raise_descriptors(settings.max_clients, others=MAX_LINGERING)
        self._inherited = Inherited(passed)
        try:
            self._claim(pid_file)
        except GracedError:
            # There will be no other try: what systemd keeps for it goes with the service.
            self._inherited.turn_away(settings.farewell)
            raise

    def _claim(self, pid_file: str | None) -> None:
        settings, belongings = self._settings, self._belongings
        self._handler = registry.find(settings.handler, settings.farewell)
        limits.check_descriptors(settings.max_clients, others=MAX_LINGERING)
        if self._handler:
            limits.check_threads(settings.max_handler_threads)
        self._notifier = Notifier()
        belongings.callback(self._notifier.close)
        self._lock = PidFile(pid_file) if pid_file else None
        if self._lock:
            belongings.callback(self._lock.remove)
        self._store = FdStore(self._notifier)
        belongings.callback(self._store.close)
        left = self._inherited.listeners
        if self._inherited.others:
            for sock in left:
                sock.close()
            self._listeners = listener.adopt(self._inherited.others)
        else:
            self._listeners = listener.bind(settings.listen, settings.backlog, left)
        for each in self._listeners:
            belongings.callback(each.close)

    def detach(self, inherited: frozenset[int]) -> Parent | None:
        """Fork.  In the daemon, return its parent; in the parent None, when the daemon serves."""
        # What was passed to us is ours, and so is whatever has got its number since.
        ours = daemonize.open_descriptors() - (inherited - self._passed)
        keep_stderr = sinks.stderr_outlives_us()
        try:
            parent = daemonize.daemonize(self._notifier, ours, keep_stderr=keep_stderr)
        except StartError:
            # The next try is to find what this one has found.
            self._keep_listeners()
            self._leave_paths()
            raise
        if parent is None:
            # The pidfile and the path of a Unix socket are the daemon's now.
            self._belongings.pop_all()
            for sock in self._sockets():
                sock.close()
            self._notifier.close()
        elif not keep_stderr:
            self._log.sink = sinks.sink_for(detached=True)
        return parent

    def _sockets(self) -> list[socket]:
        """What stays open over the fork."""
        clients = self._inherited.clients
        return [each.sock for each in self._listeners] + [client.sock for client in clients]

    def serve_detached(self, inherited: frozenset[int]) -> int:
        """Serve in the background; in the parent, return when the daemon serves.

        `inherited`: descriptors that are not ours.
        """
        parent = self.detach(inherited)
        if parent is None:
            return 0
        with parent:
            return self.serve(parent)

    def serve(self, parent: Parent | None = None) -> int:
        """The life of the service: start, serve, drain, stop.  Return the exit status."""
        with SignalInbox() as inbox:
            self._log.start()
            mirror = self._mirror()
            server = build(self._settings, self._handler, self._listeners, mirror)
            grace = self._settings.grace_period
            supervisor = Supervisor(server, inbox, self._notifier, grace=grace)
            if self._lock:
                self._lock.write()
            self._take_over(supervisor, replaced={MIRRORED} if mirror else set())
            events.STARTED(addresses=", ".join(d.name for d in self._listeners), pid=os.getpid())
            if parent:
                self._notifier.barrier()
                parent.serving()
            first = supervisor.serve()
            handing_over = first is HANDOVER and self._can_hand_over()
            if handing_over:
                if mirror:
                    # The kernel counts what is under way, and would count each client twice.
                    mirror.close()
                    self._store.release(MIRRORED)
                supervisor.hand_over_clients(self._store)
                self._leave_paths()
            supervisor.drain(first)
            if not handing_over:
                # They are shut in the end, for whoever has a copy too.
                self._store.forget({LISTENERS})
            supervisor.stop()
        return HANDED_OVER if handing_over else 0

    @property
    def _keeps(self) -> bool:
        """Whether anything is left to the next start."""
        return bool(self._notifier) and self._settings.keep != "never"

    def _can_hand_over(self) -> bool:
        """Whether it is wanted, and whether there will be somebody to take the clients up."""
        if not self._keeps:
            return False
        try:
            self._check()
        except Exception as error:
            # An upgrade of Python may have replaced what it would have had to import.
            events.HANDOVER_IMPOSSIBLE(reason=error)
            return False
        return True

    def _mirror(self) -> Mirror | None:
        always = self._notifier and self._settings.keep == "always"
        return Mirror(self._notifier.replacer(MIRRORED)) if always else None

    def _take_over(self, supervisor: Supervisor, replaced: set[str]) -> None:
        """Start to serve, first of all those who were left to us.

        `replaced`: names under which something of ours is kept already.
        """
        legacy = self._inherited
        if self._handler and not legacy.frozen:
            # What a blocking handler knew of its client has gone with its process.
            for client in legacy.clients:
                client.counted = False
        inherited = sum(client.counted for client in legacy.clients)
        note = ""
        if legacy.frozen:
            waited = round(1000 * (monotonic() - legacy.frozen))
            events.INHERITED(clients=inherited, milliseconds=waited)
            note = f"; inherited {plural(inherited, 'client')} in {waited} ms"
        elif legacy.clients:
            events.INHERITED_AFTER_CRASH(clients=inherited)
            note = f"; inherited {plural(inherited, 'client')} after a crash"
        self._store.forget(legacy.names - {LISTENERS} - replaced)
        supervisor.start(legacy.clients, note)
        # Last: who dies before leaves to the next what was left to it.
        self._store.forget(legacy.names & {LISTENERS})
        if self._keeps:
            self._keep_listeners()
            self._store.reserve()

    def _leave_paths(self) -> None:
        if self._keeps:
            for each in self._listeners:
                each.leave()

    def _keep_listeners(self) -> None:
        if self._keeps:
            self._store.keep_listeners(each.sock for each in self._listeners if not each.passed)


def build(
    settings: Settings,
    handler: Handler | None,
    listeners: Sequence[Listener],
    mirror: Mirror | None = None,
) -> Server:
    """The server that the settings ask for."""
    blocking = None
    if handler:

        def run_handler(request: Any, address: Any) -> None:
            handler.factory(request, address, server)  # type: ignore[arg-type]

        blocking = Blocking(
            run_handler,
            greet=handler.greets,
            movable=handler.movable,
            max_threads=settings.max_handler_threads,
        )
    server = Server(
        listeners,
        admission=Admission(settings.max_clients, settings.max_clients_per_host),
        policy=Policy(
            farewell=handler.farewell if handler else settings.farewell,
            gap=settings.farewell_gap,
            idle_timeout=settings.idle_timeout,
            stall_timeout=settings.stall_timeout,
            log_connections=settings.connections,
        ),
        blocking=blocking,
        mirror=mirror,
        io_threads=settings.io_threads or default_io_threads(),
    )
    return server
