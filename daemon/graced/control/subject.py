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


class Reload:
    """A reload that was asked for.  The main thread writes, and any thread may read."""

    __slots__ = ("ended", "moved", "pid", "reason", "remaining")

    def __init__(self) -> None:
        self.ended = False
        """Whether it has ended, and nothing of the rest changes any more."""
        self.reason = ""
        """Why it has failed; empty: it has not."""
        self.moved = 0
        """Clients that the new process has."""
        self.remaining = 0
        """Clients that the old process drains."""
        self.pid = 0
        """Of the new process."""


class Subject(SimpleNamespace):
    """A service, with what does not change while it serves.  Any thread may read."""

    server: Server
    supervisor: Supervisor
    log: Log
    tallies: Tallies
    stop: Callable[[], None]
    """Begins a stop, as SIGTERM does."""
    reload: Callable[[], Reload] | None
    """Begins a reload; any thread may call.  None: there can be none."""
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
