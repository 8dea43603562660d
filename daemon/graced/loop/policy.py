"""How clients are treated."""

from __future__ import annotations


class Policy:
    """The plain values that an I/O thread serves by."""

    __slots__ = ("farewell", "gap", "idle_timeout", "log_connections", "stall_timeout")

    def __init__(
        self,
        farewell: bytes = b"SHUTDOWN",
        gap: float = 0.1,
        *,
        idle_timeout: float = 0.0,
        stall_timeout: float = 60.0,
        log_connections: bool = True,
    ) -> None:
        self.farewell = farewell
        """Empty: nothing is said."""
        self.gap = gap
        """Seconds of silence around the farewell."""
        self.idle_timeout = idle_timeout
        """Seconds without a byte until a client is closed; 0: never."""
        self.stall_timeout = stall_timeout
        """Seconds in which a client may take none of what is unsent to it; 0: for ever."""
        self.log_connections = log_connections
