"""The policy: how an I/O thread treats clients."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.loop.access import Access
    from graced.loop.proxies import Proxies


class Policy:
    """The values that an I/O thread needs of the configuration.  Read by any thread."""

    __slots__ = (
        "access",
        "farewell",
        "gap",
        "idle_timeout",
        "log_connections",
        "log_probes",
        "proxies",
        "stall_timeout",
    )

    def __init__(
        self,
        farewell: bytes | None = b"SHUTDOWN",
        gap: float = 0.1,
        *,
        idle_timeout: float = 0.0,
        stall_timeout: float = 60.0,
        log_connections: bool = True,
        log_probes: bool = True,
        access: Access | None = None,
        proxies: Proxies | None = None,
    ) -> None:
        self.farewell = farewell
        """Bytes that tell a client that the server is going offline; empty: nothing tells it.

        None: no farewell is declared; end of file tells a client of a blocking handler."""
        self.gap = gap
        """Seconds of silence before and after the farewell."""
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
