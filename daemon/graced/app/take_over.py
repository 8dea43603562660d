"""The beginning of serving: what the last process has left is taken over, and more is left."""

from __future__ import annotations

import os
from time import monotonic

from graced.handlers import registry
from graced.handover.fdstore import LISTENERS, is_mirrored
from graced.log import events
from graced.log.event import plural
from graced.process import limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import ExitStack

    from graced.app.claims import Claims
    from graced.app.control_socket import ControlSocket
    from graced.app.running import Running
    from graced.app.settings import Settings
    from graced.handlers.registry import Handler
    from graced.handover.fdstore import FdStore
    from graced.handover.inherited import Inherited
    from graced.handover.mirror import Mirror
    from graced.handover.mirror_store import MirrorStore
    from graced.process.tallies import Tallies
    from graced.sockets.listener import Listener
    from graced.systemd.notify import Notifier


class TakeOver:
    """From the last process to this one, and from this one to the next.  Main thread only."""

    def __init__(
        self,
        settings: Settings,
        handler: Handler | None,
        claims: Claims,
        store: FdStore,
        control: ControlSocket,
        tallies: Tallies,
        *,
        managed: bool,
    ) -> None:
        """`managed`: by a service manager."""
        self._settings = settings
        self._handler = handler
        self._claims = claims
        self._store = store
        self._control = control
        self._tallies = tallies
        self.keeps = managed and settings.keep != "never"
        """Whether the next start shall inherit anything."""
        self.mirrors = managed and settings.keep == "always"
        """Whether clients shall outlive a crash."""
        self.handed_over: tuple[int, int | None] | None = None
        """The number of inherited clients, and the milliseconds in which they were not served."""

    def begin(
        self,
        inherited: Inherited,
        running: Running,
        belongings: ExitStack,
        served: Callable[[], None],
    ) -> None:
        """Start to serve, inherited clients first; `belongings` closes the control socket.

        `served` is called when the clients are served.

        The store is changed at the end: a start that fails before takes nothing out of the store
        and puts nothing in.
        """
        server, supervisor, mirror = running.server, running.supervisor, running.mirror
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
        self._control.bind(self._settings, self._claims.listeners, belongings)

        def retire() -> None:
            # Before READY=1: then nobody reaches a listener that is configured no more.
            if surplus := inherited.retire_listeners():
                server.adopt(surplus)

        supervisor.start(inherited.clients, inherited.begin_to_serve, retire)
        served()
        if inherited.clients:
            self.handed_over = (count, waited if inherited.frozen else None)
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
            if not (mirror and is_mirrored(name)) and not (self.keeps and name == LISTENERS)
        )
        if self.keeps:
            self.store_listeners([each for each in self._claims.listeners if not each.inherited])
            self._store.reserve()
        for each in self._claims.listeners:
            each.own_path()
        addresses = ", ".join(each.name for each in self._claims.listeners) or "no address yet"
        events.STARTED(addresses=addresses, pid=os.getpid())
        if self._claims.agent:
            # Most services have no agent, and need no module for it.
            from graced.app import agent  # noqa: PLC0415

            agent.serve(self._claims.agent, server, supervisor, belongings)

    def new_mirror(
        self, notifier: Notifier, names: Iterable[str]
    ) -> tuple[Mirror | None, MirrorStore | None]:
        """A mirror, and its bundles in the store; `names`: of what the last process has left."""
        if not self.mirrors:
            return None, None
        from graced.handover.mirror import Mirror  # noqa: PLC0415
        from graced.handover.mirror_store import MirrorStore  # noqa: PLC0415

        bundles = MirrorStore(notifier, names)
        return Mirror(bundles.replace), bundles

    def store_listeners(self, listeners: Sequence[Listener]) -> None:
        """Put new listeners into the store, for the next start."""
        if self.keeps:
            self._store.store_listeners(each.sock for each in listeners if not each.passed)

    def hand_over(self, running: Running) -> None:
        """Hand the clients over to the next start, and leave it the paths of Unix sockets."""
        self._store.settle()
        mirror = running.mirror
        if mirror and running.mirrored:
            mirror.close()
            # The kernel counts references: a client that is mirrored counts twice.
            if not limits.has_room_in_flight(mirror.copies + running.server.clients + 1):
                running.mirrored.release()
        running.supervisor.hand_over_clients(self._store, registry.name_of(self._handler))
        self._control.disown_path()
        if self.keeps:
            for each in self._claims.listeners:
                each.disown_path()
