"""The states in the life of the server, and their order.

The life of a server is this table::

    STARTING      listeners are bound; no client is accepted yet
    SERVING       clients are accepted and served; systemd has READY=1
    LAME_DUCK     as before, while load balancers look away; STOPPING=1
    HANDING_OVER  clients are served until handlers that are busy come to rest; then clients are
                  frozen, and their sockets and state go to the descriptor store
    DRAINING      clients are being sent the farewell, and are served until the deadline; STOPPING=1
    CLOSING       the remaining clients are closed; handlers have a moment to return
    STOPPED       no client and no I/O thread remains

    STARTING ──▶ SERVING ─────────────────────▶ DRAINING ──▶ CLOSING ──▶ STOPPED
                    ├──▶ LAME_DUCK ────────────────▲
                    └──▶ HANDING_OVER ─────────────┘

A failure is no state: an exception leaves the supervisor from whichever state it is in.  A step
that the table does not have raises `IllegalStepError` and changes nothing: such a step is a bug in
graced, never a consequence of a signal or of a client.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """A state in the life of the server, see the table at the head of this module."""

    STARTING = "starting"
    SERVING = "serving"
    LAME_DUCK = "lame duck"
    HANDING_OVER = "handing over"
    DRAINING = "draining"
    CLOSING = "closing"
    STOPPED = "stopped"


NEXT: dict[State, frozenset[State]] = {
    State.STARTING: frozenset({State.SERVING}),
    State.SERVING: frozenset({State.LAME_DUCK, State.HANDING_OVER, State.DRAINING}),
    State.LAME_DUCK: frozenset({State.DRAINING}),
    State.HANDING_OVER: frozenset({State.DRAINING}),
    State.DRAINING: frozenset({State.CLOSING}),
    State.CLOSING: frozenset({State.STOPPED}),
    State.STOPPED: frozenset(),
}
"""The states that may follow a state."""


class IllegalStepError(RuntimeError):
    """A step that the table of states does not have."""


class Lifecycle:
    """The state of the server.  Main thread only."""

    def __init__(self) -> None:
        self.state = State.STARTING

    def to(self, state: State) -> None:
        """Step to `state`.  Raises `IllegalStepError` where the table has no such step."""
        if state not in NEXT[self.state]:
            raise IllegalStepError(f"no step from {self.state.value} to {state.value}")
        self.state = state
