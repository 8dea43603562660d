"""One client: a connection from accept to close, as small as it can be.

Ten thousand of them should fit a device, so there is a slot for each thing that has to be known
and nothing else; all of it is plain data.
"""

from __future__ import annotations

import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What an I/O thread does about a descriptor, the index into its tables.  Plain numbers: one is
# looked at for every message.
ACTIVE = 0
"""Read and echoed.  Zero: the hot loop asks nothing else."""
AWAITING_FIRST_BYTE = 1
"""For its first byte, which makes a thread run its handler."""
TRACED = 2
"""Read and echoed, and what it says is logged."""
WRITE_BLOCKED = 3
"""Not read: the client has not taken what is unsent to it."""
FAREWELL_PENDING = 4
"""Not read: the farewell is due when the client has been quiet for the gap."""
FAREWELL_SENT = 5
"""Has its farewell; the first bytes that come now will be held back."""
READ_PAUSED = 6
"""Not read: bytes came after the farewell, they are echoed after the gap."""
LINGERING = 7
"""Everything is said; what still comes is thrown away until the client closes."""
CLIENT_PHASES = 8

LISTENING = 8
WAKING = 9
SWEEPING = 10
REPORTING = 11
REMINDING = 12
ENDING = 13
GONE = 14
PHASES = 15


# Whether a client knows.
NOT_TOLD = 0
TOLD = 1
"""The farewell has been sent or is unsent; the first bytes after it have not been answered."""
ANSWERED = 2


class Subject:
    """Whatever an I/O thread waits for: a descriptor, a point in time, or both."""

    __slots__ = ("due", "phase", "timer")

    def __init__(self, phase: int) -> None:
        self.phase = phase
        self.due = 0.0
        """Monotonic time at which something is to be done about it; 0: nothing is."""
        self.timer = 0.0
        """Monotonic time for which it stands in the thread's heap; 0: it does not."""


class Client(Subject):
    """A connection.  Owned by one I/O thread, or by the thread of its handler."""

    __slots__ = (
        "address",
        "counted",
        "echoed",
        "host",
        "last",
        "port",
        "saved",
        "since",
        "sock",
        "told",
        "unsent",
    )

    def __init__(self, sock: socket.socket, host: str, port: int, phase: int, now: float) -> None:
        self.phase = phase
        self.due = 0.0
        self.timer = 0.0
        self.sock = sock
        self.host = host
        """A number, or ``unix:PATH`` of the socket it came in by."""
        self.port = port
        """Of the client; of a Unix client, which has none, its number in the order of coming."""
        self.counted = True
        """Whether it has been admitted, and must be taken off the count."""
        self.told = NOT_TOLD
        self.since = self.last = now
        self.echoed = 0
        self.unsent = b""
        """What was read and could not be sent yet."""
        self.saved: bytes | None = None
        """What its handler has saved, in another process."""
        self.address: Any = None
        """As accept(2) gave it, where a handler will ask for it."""

    def __str__(self) -> str:
        if self.host.startswith("unix:"):
            return f"{self.host}#{self.port}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
