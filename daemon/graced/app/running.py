"""The parts of a service that runs: what the composition root makes, in the order of a life."""

from __future__ import annotations

from types import SimpleNamespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.app.handler_parts import HandlerParts
    from graced.app.reloading import Reloading
    from graced.handover.mirror import Mirror
    from graced.handover.mirror_store import MirrorStore
    from graced.process.supervisor import Supervisor
    from graced.server import Server


class Running(SimpleNamespace):
    """The parts of a service that runs."""

    server: Server
    parts: HandlerParts | None
    supervisor: Supervisor
    mirror: Mirror | None
    mirrored: MirrorStore | None
    stop: Callable[[], None]
    """Stops the service, as SIGTERM does; any thread may call."""
    reloading: Reloading | None
