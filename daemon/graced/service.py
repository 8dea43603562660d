"""The composition root: settings become a running service here, and nothing below knows them."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from graced import daemonize, events, handlers, journal, listener
from graced.admission import Admission
from graced.daemonize import Parent
from graced.errors import ConfigError, FailedError, GracedError
from graced.handlers import Handler
from graced.io_thread import Manners
from graced.journal import BackgroundHandler
from graced.listener import Listener
from graced.notify import Notifier
from graced.pidfile import PidFile
from graced.server import Blocking, Server, default_io_threads
from graced.settings import Settings
from graced.signals import SignalInbox
from graced.supervisor import Supervisor

OWN_DESCRIPTORS = 64
"""Those that are no client's: standard streams, listeners, epoll, the log, and some to spare."""


def run(settings: Settings, *, pid_file: str | None, daemon: bool) -> None:
    """Serve until told to stop; with `daemon`, return in the parent when the daemon serves.

    Whatever can be found wrong is found before the fork.  Raises `GracedError`; where it is a
    `FailedError` it has been logged.
    """
    # First of all: whatever is opened from here on is ours, and survives the fork.
    inherited = daemonize.open_descriptors() if daemon else frozenset()
    log = journal.open_log(settings.level, journal.sink_for(detached=False))
    with ExitStack() as belongings:
        belongings.callback(log.stop)
        try:
            start(settings, log, belongings, inherited, pid_file, daemon=daemon)
        except GracedError:
            raise
        except BaseException as error:
            events.FAILED(reason=repr(error), exc_info=error)
            raise FailedError(repr(error)) from error


def start(
    settings: Settings,
    log: BackgroundHandler,
    belongings: ExitStack,
    inherited: frozenset[int],
    pid_file: str | None,
    *,
    daemon: bool,
) -> None:
    """Take hold of what the service needs, on the caller's terminal, and go on in the daemon."""
    handler = handlers.find(settings.handler, settings.farewell)
    honour_limits(settings)
    notifier = Notifier()
    lock = None
    if pid_file:
        lock = PidFile(pid_file)
        belongings.callback(lock.remove)
    doors = listener.passed(os.environ, os.getpid())
    doors = doors or listener.bind(settings.listen, settings.backlog)
    for door in doors:
        belongings.callback(door.close)
    if not daemon:
        serve(settings, log, handler, doors, notifier, lock, parent=None)
        return
    preserve = daemonize.open_descriptors() - inherited | {door.sock.fileno() for door in doors}
    keep_stderr = journal.stderr_outlives_us()
    parent = daemonize.daemonize(notifier, preserve, keep_stderr=keep_stderr)
    if parent:
        if not keep_stderr:
            log.sink = journal.sink_for(detached=True)
        serve(settings, log, handler, doors, notifier, lock, parent)
    else:
        # The pidfile and the path of a Unix socket are the daemon's now.
        belongings.pop_all()
        for door in doors:
            door.sock.close()
        notifier.close()


def serve(
    settings: Settings,
    log: BackgroundHandler,
    handler: Handler | None,
    doors: Sequence[Listener],
    notifier: Notifier,
    lock: PidFile | None,
    parent: Parent | None,
) -> None:
    """The life of the service: start, serve, drain, stop."""
    try:
        with SignalInbox() as inbox:
            log.start()
            server = build(settings, handler, doors)
            supervisor = Supervisor(server, inbox, notifier, grace=settings.grace_period)
            if lock:
                lock.write()
            events.STARTED(addresses=", ".join(door.name for door in doors), pid=os.getpid())
            supervisor.start()
            if parent:
                notifier.barrier()
                parent.serving()
            supervisor.drain(supervisor.serve())
            supervisor.stop()
    except BaseException as error:
        if parent:
            parent.failed(error)
        raise


def build(settings: Settings, handler: Handler | None, doors: Sequence[Listener]) -> Server:
    """The server that the settings ask for."""
    blocking = None
    if handler:

        def run_handler(request: Any, address: Any) -> None:
            handler.factory(request, address, server)  # type: ignore[arg-type]

        blocking = Blocking(run_handler, handler.greets, settings.max_handler_threads)
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


def honour_limits(settings: Settings) -> None:
    """Raise the limit of descriptors to what the settings need.

    Raises `ConfigError` where that is not permitted: better now than by the client that is one
    too many.
    """
    need = settings.max_clients + OWN_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        if need > soft != resource.RLIM_INFINITY:
            resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))
    except (OSError, ValueError):
        raise ConfigError(
            f"limits.max_clients = {settings.max_clients} needs {need} descriptors,"
            f" but the limit (RLIMIT_NOFILE) is {soft}"
        ) from None
