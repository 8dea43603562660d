"""The policy: how an I/O thread treats clients."""

from __future__ import annotations

from math import inf
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    from graced.loop.access import Access
    from graced.loop.handshaker import Handshaker
    from graced.loop.proxies import Proxies
    from graced.loop.turns import Turns

LONGEST_PAUSE = 5.0
"""Seconds between two parts of an answer; a timed call of a handler for later is something else."""
_LAST_PART = 1.0
"""Seconds before the deadline, at most, in which a timed call keeps no client from its goodbye."""


def parts_until(deadline: float) -> float:
    """The monotonic time from which on a timed call is no part of an answer."""
    return deadline - min(_LAST_PART, max(0.0, deadline - monotonic()) / 4)


class AtOnce:
    """The turns of clients that are all told at once, as `graced.loop.turns.Turns` has them."""

    next = inf

    def begin(self, last: float) -> None:
        """Begin the drain."""

    def give(self, clients: Collection[Any]) -> Collection[Any]:
        """Return the clients whose turn is now: all."""
        return clients

    def take(self) -> list[Any]:
        """Return the clients whose turn has come since: none."""
        return []

    def discard(self, client: Any) -> None:
        """Give a client no turn."""

    def __contains__(self, client: Any) -> bool:
        """Whether the turn of a client is yet to come: of no client."""
        return False


class Policy:
    """The values that an I/O thread needs of the configuration.  Read by any thread."""

    __slots__ = (
        "access",
        "farewell",
        "gap",
        "handshaker",
        "idle_timeout",
        "log_connections",
        "log_probes",
        "proxies",
        "spread",
        "stall_timeout",
    )

    def __init__(
        self,
        farewell: bytes | None = b"SHUTDOWN",
        gap: float = 0.1,
        *,
        spread: float = 0.0,
        idle_timeout: float = 0.0,
        stall_timeout: float = 60.0,
        log_connections: bool = True,
        log_probes: bool = True,
        access: Access | None = None,
        proxies: Proxies | None = None,
        handshaker: Handshaker | None = None,
    ) -> None:
        self.farewell = farewell
        """Bytes that tell a client that the server is going offline; empty: nothing tells it.

        None: no farewell is declared; end of file tells a client of a blocking handler."""
        self.gap = gap
        """Seconds of silence before and after the farewell."""
        self.spread = spread
        """Seconds over which the drain tells the clients; 0: it tells them at once."""
        self.idle_timeout = idle_timeout
        """Seconds without a byte from a client after which the client is closed; 0: never."""
        self.stall_timeout = stall_timeout
        """Seconds in which a client takes no unsent byte, then is closed; 0: never."""
        self.log_connections = log_connections
        """Whether each connection is logged at the beginning and at the end."""
        self.log_probes = log_probes
        """Whether connections without a byte are logged, too."""
        self.access = access
        """Which hosts may connect; None: all."""
        self.proxies = proxies
        """The hosts whose connections begin with a header of the PROXY protocol; None: none."""
        self.handshaker = handshaker
        """Computes the handshakes of TLS; None: no listener asks for them."""

    def new_turns(self) -> Turns | AtOnce:
        """The turns in which an owner of clients tells them."""
        if not self.spread:
            return AtOnce()
        # Most configurations have no spread, and need no module for it.
        from graced.loop.turns import Turns  # noqa: PLC0415

        return Turns(self.spread)
