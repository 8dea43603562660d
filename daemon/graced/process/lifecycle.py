"""The life of the server, as a table.

A step that is not in the table raises and changes nothing: it is a bug in graced, never a
consequence of what a client or a signal did.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    STARTING = "starting"
    SERVING = "serving"
    HANDING_OVER = "handing on"
    DRAINING = "draining"
    CLOSING = "closing"
    STOPPED = "stopped"
    FAILED = "failed"


NEXT: dict[State, frozenset[State]] = {
    State.STARTING: frozenset({State.SERVING, State.FAILED}),
    State.SERVING: frozenset({State.HANDING_OVER, State.DRAINING, State.FAILED}),
    State.HANDING_OVER: frozenset({State.DRAINING, State.FAILED}),
    State.DRAINING: frozenset({State.CLOSING, State.FAILED}),
    State.CLOSING: frozenset({State.STOPPED, State.FAILED}),
    State.STOPPED: frozenset(),
    State.FAILED: frozenset(),
}


class IllegalStepError(RuntimeError):
    """The lifecycle was asked for a step that its table does not have."""


class Lifecycle:
    """Where the server is in its life.  Only the main thread moves it."""

    def __init__(self) -> None:
        self.state = State.STARTING

    def to(self, state: State) -> None:
        """Step to `state`.  Raises `IllegalStepError` where the table has no such step."""
        if state not in NEXT[self.state]:
            raise IllegalStepError(f"no step from {self.state.value} to {state.value}")
        self.state = state
