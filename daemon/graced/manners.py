"""How clients are treated."""

from __future__ import annotations

from typing import NamedTuple


class Manners(NamedTuple):
    """The plain values that an I/O thread serves by."""

    farewell: bytes = b"SHUTDOWN"
    """Empty: nothing is said."""
    gap: float = 0.1
    """Seconds of silence around the farewell."""
    idle_timeout: float = 0.0
    """Seconds without a byte until a client is closed; 0: never."""
    stall_timeout: float = 60.0
    """Seconds in which a client may take none of what is owed to it; 0: for ever."""
    log_connections: bool = True
