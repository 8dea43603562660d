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

    HELLO = 1
    """New: I am configured; my pid and version."""
    OFFER = 2
    """Old: listening sockets, the locked pidfile, and one state of each handler to be tried."""
    READY = 3
    """New: I have everything that serving takes."""
    FAILED = 4
    """New: I end, and the reason as one line."""
    COMMIT = 5
    """Old: you are the main process; accept clients."""
    ACCEPTING = 6
    """New: I accept clients."""
    BATCH = 7
    """Old: the sockets and the state of some clients, that are mine yet."""
    TAKEN = 8
    """New: I could serve the clients of the batch, but for some."""
    RELEASED = 9
    """Old: I want no client back that you have taken, as long as you live."""
    SERVING = 10
    """New: I serve the clients of the batch from now on; close your copies."""
    REVOKED = 11
    """Old: the clients of the batch are mine again; forget them."""
    MOVED = 12
    """Old: no batch will follow; how many clients remain here, until when, and my counts."""
    STOPPING = 13
    """New: the service stops; drain your clients."""
    STOP = 14
    """Old: I was told to stop the service; do so."""


def step(table: Table[S, E, A], state: S, event: E) -> tuple[S, tuple[A, ...]]:
    """The next state, and what is to be done.  Raises `UnexpectedEventError`."""
    try:
        return table[state, event]
    except KeyError:
        raise UnexpectedEventError(f"{event.value} while {state.value}") from None
