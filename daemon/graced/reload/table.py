"""What a table of states is made of, for both processes of a reload.

A table says, for a state and an event, the next state and the actions to be taken, in their order.
A table has no sockets, no clock and no clients in it: the process that takes the actions has them.
So a test can run every order of events (tests/unit/reload).
"""

from __future__ import annotations

from enum import Enum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeVar

    S = TypeVar("S", bound=Enum)
    E = TypeVar("E", bound=Enum)
    A = TypeVar("A", bound=Enum)

    Table = Mapping[tuple[S, E], tuple[S, tuple[A, ...]]]
    """By state and event: the next state, and the actions."""


class UnexpectedEventError(RuntimeError):
    """An event that the table does not have in a state: a bug in one of the two processes."""


class Message(Enum):
    """What the two processes tell each other, see `graced.reload.old_side` and `new_side`."""

    HELLO = "hello"
    """New: I am configured; my pid and version."""
    OFFER = "offer"
    """Old: listening sockets, the locked pidfile, and one state of each handler to be tried."""
    READY = "ready"
    """New: I have everything that serving takes."""
    FAILED = "failed"
    """New: I end, and the reason as one line."""
    COMMIT = "commit"
    """Old: you are the main process; accept clients, and go on from my counts."""
    ACCEPTING = "accepting"
    """New: I accept clients."""
    BATCH = "batch"
    """Old: the sockets and the state of some clients, that are mine yet."""
    TAKEN = "taken"
    """New: I could serve the clients of the batch, but for some."""
    RELEASED = "released"
    """Old: I want no client back that you have taken, as long as you live."""
    SERVING = "serving"
    """New: I serve the clients of the batch from now on; close your copies."""
    REVOKED = "revoked"
    """Old: the clients of the batch are mine again; forget them."""
    MOVED = "moved"
    """Old: no batch will follow; how many clients remain here, until when, and my counts."""
    STOPPING = "stopping"
    """New: the service stops; drain your clients."""
    STOP = "stop"
    """Old: I was told to stop the service; do so."""


def step(table: Table[S, E, A], state: S, event: E) -> tuple[S, tuple[A, ...]]:
    """The next state, and what is to be done.  Raises `UnexpectedEventError`."""
    try:
        return table[state, event]
    except KeyError:
        raise UnexpectedEventError(f"{event.value} while {state.value}") from None
