"""The composition root: settings become a running service here, and nothing below knows them."""

from __future__ import annotations

import os
from contextlib import ExitStack

from graced import daemonize, events, handlers, journal, limits, listener
from graced.admission import Admission
from graced.daemonize import Parent
from graced.errors import FailedError, GracedError
from graced.handlers import Handler
from graced.io_thread import MAX_LINGERING
from graced.journal import Log
from graced.listener import Listener
from graced.manners import Manners
from graced.notify import Notifier
from graced.pidfile import PidFile
from graced.server import Blocking, Server, default_io_threads
from graced.settings import Settings
from graced.signals import SignalInbox
from graced.supervisor import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def run(settings: Settings, *, pid_file: str | None, daemon: bool) -> None:
    """Serve until told to stop; with `daemon`, return in the parent when the daemon serves.

    Raises `GracedError`; where it is a `FailedError` it has been logged.
    """
    with ExitStack() as belongings:
        # First of all: whatever is opened from here on is ours, and survives the fork.
        inherited = daemonize.open_descriptors() if daemon else frozenset()
        log = journal.open_log(settings.level, journal.sink_for(detached=False))
        belongings.callback(log.stop)
        try:
            service = Service(settings, pid_file, log, belongings)
            if not daemon:
                service.serve()
            elif parent := service.detach(inherited):
                with parent:
                    service.serve(parent)
        except GracedError:
            raise
        except BaseException as error:
            events.FAILED(reason=repr(error), exc_info=error)
            raise FailedError(repr(error)) from error


class Service:
    """What a running service holds, from the doors to the log.  Main thread only."""

    def __init__(
        self,
        settings: Settings,
        pid_file: str | None,
        log: Log,
        belongings: ExitStack,
    ) -> None:
        """Take hold of everything that can be refused, on the terminal of who starts us.

        `belongings` gives it up at the end.  Raises `GracedError`.
        """
        self._settings = settings
        self._log = log
        self._belongings = belongings
        if not handlers.is_built_in(settings.handler):
            # Only somebody else's uses `logging`, maybe as soon as it is imported.
            from graced import logbridge  # noqa: PLC0415

            logbridge.install(log)
        self._handler = handlers.find(settings.handler, settings.farewell)
        limits.honour_descriptors(settings.max_clients, others=MAX_LINGERING)
        if self._handler:
            limits.check_threads(settings.max_handler_threads)
        self._notifier = Notifier()
        belongings.callback(self._notifier.close)
        self._lock = PidFile(pid_file) if pid_file else None
        if self._lock:
            belongings.callback(self._lock.remove)
        passed = listener.passed(os.environ, os.getpid())
        self._doors = passed or listener.bind(settings.listen, settings.backlog)
        for door in self._doors:
            belongings.callback(door.close)

    def detach(self, inherited: frozenset[int]) -> Parent | None:
        """Fork.  In the daemon, return its parent; in the parent None, when the daemon serves."""
        doors = {door.sock.fileno() for door in self._doors}
        ours = daemonize.open_descriptors() - inherited
        keep_stderr = journal.stderr_outlives_us()
        parent = daemonize.daemonize(self._notifier, ours | doors, keep_stderr=keep_stderr)
        if parent is None:
            # The pidfile and the path of a Unix socket are the daemon's now.
            self._belongings.pop_all()
            for door in self._doors:
                door.sock.close()
            self._notifier.close()
        elif not keep_stderr:
            self._log.sink = journal.sink_for(detached=True)
        return parent

    def serve(self, parent: Parent | None = None) -> None:
        """The life of the service: start, serve, drain, stop."""
        with SignalInbox() as inbox:
            self._log.start()
            server = build(self._settings, self._handler, self._doors)
            grace = self._settings.grace_period
            supervisor = Supervisor(server, inbox, self._notifier, grace=grace)
            if self._lock:
                self._lock.write()
            supervisor.start()
            events.STARTED(addresses=", ".join(d.name for d in self._doors), pid=os.getpid())
            if parent:
                self._notifier.barrier()
                parent.serving()
            first = supervisor.serve()
            supervisor.drain(first)
            supervisor.stop()


def build(settings: Settings, handler: Handler | None, doors: Sequence[Listener]) -> Server:
    """The server that the settings ask for."""
    blocking = None
    if handler:

        def run_handler(request: Any, address: Any) -> None:
            handler.factory(request, address, server)  # type: ignore[arg-type]

        blocking = Blocking(
            run_handler, greet=handler.greets, max_threads=settings.max_handler_threads
        )
    server = Server(
        doors,
        admission=Admission(settings.max_clients, settings.max_clients_per_host),
        manners=Manners(
            farewell=handler.farewell if handler else settings.farewell,
            gap=settings.farewell_gap,
            idle_timeout=settings.idle_timeout,
            stall_timeout=settings.stall_timeout,
            log_connections=settings.connections,
        ),
        blocking=blocking,
        io_threads=settings.io_threads or default_io_threads(),
    )
    return server
