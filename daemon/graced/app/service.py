"""The composition root: settings become a running service.

Only the package `graced.app` imports settings; this module passes plain values to the wings below.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from functools import partial
from signal import SIGTERM
from time import monotonic

from graced.app import handler_path
from graced.app.assembly import build
from graced.app.claims import Claims
from graced.app.control_socket import ControlSocket
from graced.app.settings import Settings
from graced.errors import HANDED_OVER, FailedError, GracedError, StartError
from graced.handlers import registry
from graced.handover.fdstore import LISTENERS, FdStore, is_mirrored
from graced.handover.inherited import Inherited
from graced.log import events, sinks, writer
from graced.log.event import plural
from graced.log.writer import Log
from graced.loop.acceptor import MAX_LINGERING
from graced.process import limits
from graced.process.supervisor import Supervisor
from graced.process.tallies import Tallies
from graced.server import Server
from graced.signals import HANDOVER, SignalInbox, expect_service_manager
from graced.systemd import activation
from graced.systemd.notify import Notifier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from socket import socket

    from graced.app.launch import Launch
    from graced.handover.mirror import Mirror
    from graced.process.daemonize import Parent
    from graced.sockets.listener import Listener


def run(settings: Settings, *, pid_file: str | None, daemon: bool, launch: Launch) -> int:
    """Serve until told to stop; with `daemon`, return in the parent when the daemon serves.

    `launch`: how this process was started.
    Return the exit status.  Raises `GracedError`; a `FailedError` has been logged.
    """
    with ExitStack() as belongings:
        foreign: frozenset[int] = frozenset()
        if daemon:
            # In the foreground a start does without this module.
            from graced.process import daemonize  # noqa: PLC0415

            # First of all: every descriptor that is opened from here on is ours, and survives the
            # fork.
            foreign = daemonize.open_descriptors()
        expect_service_manager(os.environ, os.getpid())
        log = writer.open_log(settings.level, sinks.sink_for(detached=False))
        belongings.callback(log.stop)
        service = Service(settings, pid_file, log, belongings, launch)
        try:
            service.claim()
            return service.serve_detached(foreign) if daemon else service.serve()
        except StartError:
            # The system was short of something: the next try may find it, and the clients.
            service.turn_away_unstored()
            raise
        except GracedError as error:
            service.refuse(error)
            raise
        except BaseException as error:
            events.FAILED(reason=repr(error), exc_info=error)
            service.turn_away_unstored()
            raise FailedError(repr(error)) from error


def refuse(settings: Settings) -> None:
    """Tell the inherited clients of a start that is refused before there is a `Service`.

    systemd does not try again after such a refusal, and closes these clients.
    `settings`: the valid part of the configuration, for the words of the farewell.
    """
    with suppress(GracedError):
        passed = activation.passed(os.environ, os.getpid())
        if passed:
            log = writer.open_log(settings.level, sinks.sink_for(detached=False))
            inherited = Inherited(passed)
            inherited.turn_away(_last_words(settings, os.environ, inherited))
            log.stop()


def _last_words(settings: Settings, environ: Mapping[str, str], inherited: Inherited) -> bytes:
    """The farewell that the inherited clients understand; empty: none is known.

    Any text could be wrong in the protocol of a handler that cannot be imported, or of another: the
    clients of another count as told.
    """
    try:
        handler = handler_path.find(settings, environ)
    except GracedError:
        return b""
    inherited.expect_handler(registry.name_of(handler))
    return (handler.farewell or b"") if handler else settings.farewell


class Service:
    """A service from its claims (listeners, pidfile, limits) to its end.  Main thread only."""

    def __init__(
        self,
        settings: Settings,
        pid_file: str | None,
        log: Log,
        belongings: ExitStack,
        launch: Launch,
    ) -> None:
        """`belongings` closes everything at the end that the service opens."""
        self._settings = settings
        self._log = log
        self._belongings = belongings
        self._launch = launch
        self._passed: set[int] = set()
        self._notifier = Notifier()
        belongings.callback(self._notifier.close)
        self._store = FdStore(self._notifier)
        belongings.callback(self._store.close)
        self._tallies = Tallies(log)
        self._store.tallies = self._tallies.now
        self._claims = Claims(settings, pid_file, belongings, managed=self._notifier.managed)
        self._inherited: Inherited | None = None
        """Clients and listeners of the last process, until the take-over."""
        self._handed_over: tuple[int, int | None] | None = None
        """The number of these clients, and the milliseconds in which they were not served."""
        # Before the fork: the service manager has started this process.
        self._control = ControlSocket(os.environ, os.getpid())

    def claim(self) -> None:
        """Claim everything that can be refused, before the fork: on the terminal of the command.

        Raises `GracedError`.
        """
        settings = self._settings
        passed = activation.passed(os.environ, os.getpid())
        self._passed = {fd for fd, _ in passed}
        limits.raise_descriptors(settings.max_clients, others=MAX_LINGERING)
        self._inherited = Inherited(passed, self._claims.keepalive)
        if not registry.is_built_in(settings.handler):
            # Only other people's handlers use `logging`, maybe as soon as they are imported.
            from graced.log import bridge  # noqa: PLC0415

            bridge.install(self._log)
        self._handler = handler_path.prepare(settings, self._launch.environment)
        others = MAX_LINGERING
        if self._handler and self._handler.asynchronous:
            from graced.app import loop_choice  # noqa: PLC0415

            others += loop_choice.copies(settings, self._handler)
            limits.raise_descriptors(settings.max_clients, others=others)
        limits.check_descriptors(settings.max_clients, others=others)
        threads = settings.max_handler_threads
        if registry.blocks(self._handler) and (lack := limits.lack_of_tasks(threads)):
            events.LIMITS(reason=lack)
        self._claims.claim(self._inherited)

    def refuse(self, error: GracedError) -> None:
        """End a start that is refused, after `error`.

        Where the service manager tries again, the next start learns of the refusal.  Else the
        inherited clients are told that the server is going offline, unless clients are served.
        """
        if error.passes and self._notifier.managed:
            self._store.note_refusal()
        else:
            self.turn_away()

    def turn_away(self) -> None:
        """Tell the inherited clients that the server is going offline, if none is served yet."""
        if self._inherited:
            for each in self._claims.listeners:
                self._inherited.listeners.give_back_or_close(each)
            words = _last_words(self._settings, self._launch.environment, self._inherited)
            self._inherited.turn_away(words)

    def turn_away_unstored(self) -> None:
        """Tell the inherited clients that the next try to start would not find."""
        if self._inherited:
            words = _last_words(self._settings, self._launch.environment, self._inherited)
            self._inherited.turn_away_unstored(words)

    def serve_detached(self, foreign: frozenset[int]) -> int:
        """Serve in the background; in the parent, return when the daemon serves.

        `foreign`: descriptors of the caller.
        """
        from graced.app import terminal  # noqa: PLC0415
        from graced.process import daemonize  # noqa: PLC0415

        # A descriptor that was passed to us is ours, and so is one that got its number since.
        ours = daemonize.open_descriptors() - (foreign - self._passed)
        keep_stderr = sinks.stderr_outlives_us()
        parent = daemonize.daemonize(self._notifier, ours, keep_stderr=keep_stderr)
        if parent is None:
            self._leave_to_daemon()
            terminal.tell(self._claims.listeners, self._claims.lock, keep_stderr=keep_stderr)
            return 0
        if not keep_stderr:
            self._log.sink = sinks.sink_for(detached=True)
        with parent:
            return self.serve(parent)

    def _leave_to_daemon(self) -> None:
        """In the parent: pidfile and paths of Unix sockets belong to the daemon now."""
        self._belongings.pop_all()
        for sock in self._sockets():
            sock.close()
        if self._inherited:
            self._inherited.listeners.close()
            self._inherited.close()
        self._notifier.close()

    def _sockets(self) -> list[socket]:
        """The sockets that stay open over the fork."""
        clients = self._inherited.clients if self._inherited else []
        own = [*self._claims.listeners, *self._claims.agent]
        return [each.sock for each in own] + [client.sock for client in clients]

    def serve(self, parent: Parent | None = None) -> int:
        """The life of the service: start, serve, drain, stop.  Return the exit status."""
        with SignalInbox() as inbox:
            self._log.start()
            # Modules that not every service needs, now: an upgrade may replace the files later.
            mirror = mirrored = None
            if self._mirrors:
                from graced.handover.mirror import Mirror  # noqa: PLC0415
                from graced.handover.mirror_store import MirrorStore  # noqa: PLC0415

                names = self._inherited.names if self._inherited else ()
                mirrored = MirrorStore(self._notifier, names)
                mirror = Mirror(mirrored.replace)
            if self._keeps:
                from graced.app.next_start import try_next_start  # noqa: PLC0415
            try:
                stop = partial(inbox.put, SIGTERM)
                server, parts = build(self._settings, self._handler, self._claims, mirror, stop)
            except OSError as error:
                reason = f"cannot wait for clients, epoll(7) or eventfd(2): {error.strerror}"
                raise StartError(reason) from None
            supervisor = Supervisor(
                server,
                inbox,
                self._notifier,
                grace=self._settings.grace_period,
                lame_duck=self._settings.lame_duck,
            )
            self._claims.write_pid()
            self._claims.prepare()
            self._take_over(server, supervisor, mirror)
            self._report(server, supervisor, stop, parent)
            signum = supervisor.serve()
            handing_over = False
            if signum is HANDOVER and self._keeps and self._notifier.listens_again():
                self._store.reserve()
                signum, handing_over = try_next_start(
                    self._launch, supervisor, self._notifier, self._claims
                )
            if handing_over:
                self._store.settle()
                if mirror and mirrored:
                    mirror.close()
                    # The kernel counts references: a client that is mirrored counts twice.
                    if not limits.has_room_in_flight(mirror.copies + server.clients + 1):
                        mirrored.release()
                supervisor.hand_over_clients(self._store, registry.name_of(self._handler))
                self._disown_paths()
            unsaid = signum if handing_over else supervisor.lame_duck(signum)
            self._claims.stop()
            supervisor.drain(unsaid)
            if not handing_over:
                # A stop shuts the listeners, for every process that has a copy.
                self._store.forget({LISTENERS})
            supervisor.stop()
            if parts:
                from graced.app import last_steps  # noqa: PLC0415

                last_steps.run(parts.call_shutdown, server.deadline)
        return HANDED_OVER if handing_over else 0

    def _report(
        self,
        server: Server,
        supervisor: Supervisor,
        stop: Callable[[], None],
        parent: Parent | None,
    ) -> None:
        """Say that clients are served: to operators, in the log, to HAProxy and to the parent."""
        self._control.serve(
            server,
            supervisor,
            stop,
            self._log,
            self._tallies,
            self._settings,
            self._handler,
            self._handed_over,
        )
        addresses = ", ".join(d.name for d in self._claims.listeners) or "no address yet"
        events.STARTED(addresses=addresses, pid=os.getpid())
        if self._claims.agent:
            # Most services have no agent, and need no module for it.
            from graced.app import agent  # noqa: PLC0415

            agent.serve(self._claims.agent, server, supervisor, self._belongings)
        if parent:
            self._notifier.barrier()
            parent.serving()
        self._claims.try_again(server, supervisor, self._store_listeners)

    @property
    def _keeps(self) -> bool:
        """Whether the next start shall inherit anything."""
        return self._notifier.managed and self._settings.keep != "never"

    @property
    def _mirrors(self) -> bool:
        """Whether clients shall outlive a crash."""
        return self._notifier.managed and self._settings.keep == "always"

    def _take_over(self, server: Server, supervisor: Supervisor, mirror: Mirror | None) -> None:
        """Start to serve, inherited clients first.

        The store is changed at the end: a start that fails before takes nothing out of the store
        and puts nothing in.
        """
        inherited = self._inherited
        assert inherited
        if self._handler and not inherited.frozen:
            # The state of a blocking handler has gone with its process.
            for client in inherited.clients:
                client.counted = False
        if reason := inherited.expect_handler(registry.name_of(self._handler)):
            events.NOT_INHERITED(reason=reason)
        if self._handler and self._handler.asynchronous:
            from graced.app import loop_choice  # noqa: PLC0415

            listeners, clients = self._claims.listeners, inherited.clients
            if reason := loop_choice.leave_out(self._settings, self._handler, listeners, clients):
                events.NOT_INHERITED(reason=reason)
        server.restore_counts(inherited.counts)
        count = sum(client.counted for client in inherited.clients)
        waited = round(1000 * (monotonic() - inherited.frozen))
        self._tallies.go_on(inherited.tallies, server.admission)
        self._tallies.count_handover(waited if inherited.frozen else None)
        how = f"in {waited} ms" if inherited.frozen else "after a crash"
        supervisor.note = f"; inherited {plural(count, 'client')} {how}" * bool(inherited.clients)
        supervisor.missing = self._claims.missing
        # Before READY=1: then an operator can ask.
        self._control.bind(self._settings, self._claims.listeners, self._belongings)

        def retire() -> None:
            # Before READY=1: then nobody reaches a listener that is configured no more.
            if surplus := inherited.retire_listeners():
                server.adopt(surplus)

        supervisor.start(inherited.clients, inherited.begin_to_serve, retire)
        self._inherited = None
        if inherited.clients:
            self._handed_over = (count, waited if inherited.frozen else None)
        if inherited.clients and inherited.frozen:
            events.INHERITED(clients=count, milliseconds=waited)
        elif inherited.clients:
            events.INHERITED_AFTER_CRASH(clients=count)
        if mirror:
            mirror.start()
        # The mirror removes its own, and listeners that are used again stay where they are.
        self._store.forget(
            name
            for name in inherited.names
            if not (mirror and is_mirrored(name)) and not (self._keeps and name == LISTENERS)
        )
        if self._keeps:
            self._store_listeners([each for each in self._claims.listeners if not each.inherited])
            self._store.reserve()
        for each in self._claims.listeners:
            each.own_path()

    def _disown_paths(self) -> None:
        self._control.disown_path()
        if self._keeps:
            for each in self._claims.listeners:
                each.disown_path()

    def _store_listeners(self, listeners: Sequence[Listener]) -> None:
        if self._keeps:
            self._store.store_listeners(each.sock for each in listeners if not each.passed)
