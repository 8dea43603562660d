"""The composition root: settings become a running service.

Only the package `graced.app` imports settings; this module passes plain values to the wings below.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import partial
from signal import SIGTERM

from graced.app import handler_path, refusal
from graced.app.assembly import build
from graced.app.claims import Claims
from graced.app.control_socket import ControlSocket
from graced.app.running import Running
from graced.app.settings import Settings
from graced.app.take_over import TakeOver
from graced.errors import HANDED_OVER, FailedError, GracedError, StartError
from graced.handlers import registry
from graced.handover.fdstore import LISTENERS, FdStore
from graced.handover.inherited import Inherited
from graced.log import events, sinks, writer
from graced.log.writer import Log
from graced.loop.acceptor import MAX_LINGERING
from graced.process import limits
from graced.process.supervisor import Supervisor
from graced.process.tallies import Tallies
from graced.signals import HANDOVER, SignalInbox, expect_service_manager
from graced.systemd import activation
from graced.systemd.notify import Notifier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import Signals
    from socket import socket

    from graced.app.launch import Launch
    from graced.app.offer import Offer
    from graced.app.reloaded import Reloaded
    from graced.process.daemonize import Parent


def run(
    settings: Settings,
    *,
    pid_file: str | None,
    daemon: bool,
    launch: Launch,
    beside: Reloaded | None = None,
) -> int:
    """Serve until told to stop; with `daemon`, return in the parent when the daemon serves.

    `launch`: how this process was started.  `beside`: of the new process of a reload.
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
        service = Service(settings, pid_file, log, belongings, launch, beside)
        try:
            # A new process claims later, as a daemon, what the old one offers.
            (service.configure if beside else service.claim)()
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


class Service:
    """A service from its claims (listeners, pidfile, limits) to its end.  Main thread only."""

    def __init__(
        self,
        settings: Settings,
        pid_file: str | None,
        log: Log,
        belongings: ExitStack,
        launch: Launch,
        beside: Reloaded | None = None,
    ) -> None:
        """`belongings` closes everything at the end that the service opens.

        `beside`: of the new process of a reload.
        """
        self._settings = settings
        self._log = log
        self._belongings = belongings
        self._launch = launch
        self._beside = beside
        self._passed: set[int] = set()
        self._notifier = Notifier({**beside.held}, mute=True) if beside else Notifier()
        belongings.callback(self._notifier.close)
        self._store = FdStore(self._notifier)
        belongings.callback(self._store.close)
        self._tallies = Tallies(log)
        self._store.tallies = self._tallies.now
        self._claims = Claims(settings, pid_file, belongings, managed=self._notifier.managed)
        self._inherited: Inherited | None = None
        """Clients and listeners of the last process, until the take-over."""
        self._take_over: TakeOver
        # Before the fork: the service manager has started this process.
        self._control = ControlSocket(os.environ, os.getpid())

    def configure(self) -> None:
        """Get the handler, and see whether its clients are within the limits.

        Raises `GracedError`.
        """
        settings = self._settings
        passed = activation.passed(os.environ, os.getpid())
        self._passed = {fd for fd, _ in passed}
        if self._beside:
            self._passed.update(self._beside.descriptors)
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

    def claim(self) -> None:
        """Claim everything that can be refused, before the fork: on the terminal of the command.

        Raises `GracedError`.
        """
        self.configure()
        assert self._inherited
        self._claims.claim(self._inherited)

    def refuse(self, error: GracedError) -> None:
        """End a start that is refused, after `error`.

        Where the service manager tries again, the next start learns of the refusal.  Else the
        inherited clients are told that the server is going offline, unless clients are served.
        """
        if self._beside:
            # The old process serves, and says why.
            return
        if error.passes and self._notifier.managed:
            self._store.note_refusal()
        else:
            self.turn_away()

    def turn_away(self) -> None:
        """Tell the inherited clients that the server is going offline, if none is served yet."""
        if self._inherited:
            for each in self._claims.listeners:
                self._inherited.listeners.give_back_or_close(each)
            words = refusal.last_words(self._settings, self._launch.environment, self._inherited)
            self._inherited.turn_away(words)

    def turn_away_unstored(self) -> None:
        """Tell the inherited clients that the next try to start would not find."""
        if self._inherited and not self._beside:
            words = refusal.last_words(self._settings, self._launch.environment, self._inherited)
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
            if not self._beside:
                terminal.tell(self._claims.listeners, self._claims.lock, keep_stderr=keep_stderr)
            return 0
        if not keep_stderr:
            self._log.sink = sinks.sink_for(detached=True)
        with parent:
            return self.serve(parent)

    def _claim_offer(self, offer: Offer) -> None:
        offer.take_stderr()
        self._log.sink = sinks.sink_for(detached=not sinks.stderr_outlives_us())
        self._inherited = offer.inherited(self._claims.keepalive)
        self._claims.claim_beside(self._inherited, offer.pid_file, goes_on=offer.goes_on)

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
            try:
                if self._beside and not self._beside.get_offer(inbox, self._claim_offer):
                    return 0
                return self._serve(inbox, parent)
            except BaseException as error:
                if self._beside:
                    self._beside.refuse(error)
                raise

    def _serve(self, inbox: SignalInbox, parent: Parent | None) -> int:
        self._log.start()
        running = self._build(inbox)
        if not self._start(running, parent):
            return 0
        server, supervisor = running.server, running.supervisor
        self._claims.try_again(server, supervisor, self._take_over.store_listeners)
        signum = supervisor.serve()
        while running.reloading and not running.reloading.lets_stop(signum):
            signum = supervisor.serve()
        signum, handing_over = self._hand_over(running, signum)
        return self._stop(running, signum, handing_over=handing_over)

    def _build(self, inbox: SignalInbox) -> Running:
        """Make everything that serving takes.  Raises `GracedError`."""
        take_over = self._take_over = TakeOver(
            self._settings,
            self._handler,
            self._claims,
            self._store,
            self._control,
            self._tallies,
            managed=self._notifier.managed,
        )
        # Modules that not every service needs, now: an upgrade may replace the files later.
        names = self._inherited.names if self._inherited else ()
        mirror, mirrored = take_over.new_mirror(self._notifier, names)
        if take_over.keeps:
            from graced.app import next_start  # noqa: F401, PLC0415
        stop = partial(inbox.put, SIGTERM)
        try:
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
        if not self._beside:
            self._claims.write_pid()
        self._claims.prepare()
        return Running(
            server=server,
            parts=parts,
            supervisor=supervisor,
            mirror=mirror,
            mirrored=mirrored,
            stop=stop,
            reloading=None,
        )

    def _start(self, running: Running, parent: Parent | None) -> bool:
        """Begin to serve; False: the old process of a reload has called it off."""
        if self._beside and parent:
            self._attend_to_reloads(running)
            parent.serving()
            if not self._beside.get_ready(self._notifier, partial(self._accept, running)):
                return False
        else:
            self._accept(running)
            if parent:
                self._notifier.barrier()
                parent.serving()
                if self._notifier.managed:
                    # Clients are served by now, and do not wait for further imports.
                    self._attend_to_reloads(running)
        self._control.serve(
            running.server,
            running.supervisor,
            running.stop,
            self._log,
            self._tallies,
            self._settings,
            self._handler,
            self._take_over.handed_over,
            running.reloading.ask if running.reloading else None,
        )
        return True

    def _accept(self, running: Running) -> None:
        """Serve the inherited clients, and new ones."""
        if self._beside:
            server, supervisor = running.server, running.supervisor
            self._beside.begin(server, supervisor, self._claims, self._tallies, self._handler)
        assert self._inherited
        self._take_over.begin(
            self._inherited, running, self._belongings, partial(setattr, self, "_inherited", None)
        )

    def _attend_to_reloads(self, running: Running) -> None:
        from graced.app.reloading import Reloading  # noqa: PLC0415

        try:
            running.reloading = Reloading(
                self._launch,
                running.server,
                running.supervisor,
                self._notifier,
                self._store,
                self._claims,
                self._control,
                handler=registry.name_of(self._handler),
                grace=self._settings.grace_period,
                stop=running.stop,
                beside=self._beside,
                mirrors=self._take_over.mirrors,
            )
        except OSError as error:
            if self._beside:
                raise StartError(f"cannot be reloaded again: {error.strerror}") from None
            events.LIMITS(reason=f"no reload is possible: {error.strerror}")
            return
        running.supervisor.attend(running.reloading)

    def _hand_over(self, running: Running, signum: Signals) -> tuple[Signals, bool]:
        """Hand clients over, if that was asked for; the signal to drain for, and whether so."""
        if not (signum is HANDOVER and self._take_over.keeps and self._notifier.listens_again()):
            return signum, False
        from graced.app.next_start import try_next_start  # noqa: PLC0415

        self._store.reserve()
        signum, handing_over = try_next_start(
            self._launch, running.supervisor, self._notifier, self._claims
        )
        if handing_over:
            self._take_over.hand_over(running)
        return signum, handing_over

    def _stop(self, running: Running, signum: Signals, *, handing_over: bool) -> int:
        """Drain, and end.  Return the exit status."""
        supervisor, reloading = running.supervisor, running.reloading
        has_moved = bool(reloading and reloading.has_moved)
        unsaid = signum if handing_over or has_moved else supervisor.lame_duck(signum)
        self._claims.stop()
        if has_moved:
            supervisor.drain_for(self._settings.grace_period)
        else:
            supervisor.drain(unsaid)
        goes_on = handing_over or bool(reloading and reloading.ends_beside())
        if not goes_on:
            # A stop shuts the listeners, for every process that has a copy.
            self._store.forget({LISTENERS})
        supervisor.stop(events.REST_ENDED if has_moved else events.STOPPED)
        if running.parts:
            from graced.app import last_steps  # noqa: PLC0415

            last_steps.run(running.parts.call_shutdown, running.server.deadline)
        return HANDED_OVER if goes_on else 0
