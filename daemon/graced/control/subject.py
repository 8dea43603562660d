"""The subject of the control socket: a service that serves."""

from __future__ import annotations

from types import SimpleNamespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.log.writer import Log
    from graced.process.supervisor import Supervisor
    from graced.process.tallies import Tallies
    from graced.server import Server


class Subject(SimpleNamespace):
    """A service, with what does not change while it serves.  Any thread may read."""

    server: Server
    supervisor: Supervisor
    log: Log
    tallies: Tallies
    stop: Callable[[], None]
    """Begins a stop, as SIGTERM does."""
    name: str
    """That of the unit, without its type."""
    handler: str
    """The name in the configuration."""
    max_handler_threads: int
    """0: the handler has no thread for each client."""
    grace_period: float
    """Seconds."""
    inherited: tuple[int, int | None] | None
    """Clients of the last process, and the milliseconds in which they were not served."""
    since: float
    """Monotonic time at which the process began to serve."""
