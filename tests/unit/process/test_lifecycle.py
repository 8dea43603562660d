"""The table of states that a server's life may step through."""

from __future__ import annotations

from itertools import pairwise, product

import pytest

from graced.process.lifecycle import NEXT, IllegalStepError, Lifecycle, State

STOPPED = [State.SERVING, State.DRAINING, State.CLOSING, State.STOPPED]
LAME = [State.SERVING, State.LAME_DUCK, State.DRAINING, State.CLOSING, State.STOPPED]
HANDED_OVER = [State.SERVING, State.HANDING_OVER, State.DRAINING, State.CLOSING, State.STOPPED]


def lifecycle_in(state: State) -> Lifecycle:
    """A lifecycle that has stepped to `state`."""
    lifecycle = Lifecycle()
    if state is not State.STARTING:
        way = next(way for way in (STOPPED, LAME, HANDED_OVER) if state in way)
        for step in way[: way.index(state) + 1]:
            lifecycle.to(step)
    assert lifecycle.state is state
    return lifecycle


@pytest.mark.parametrize(
    "way", [STOPPED, LAME, HANDED_OVER], ids=["stopped", "lame duck", "handed over"]
)
def test_whole_life(way: list[State]) -> None:
    lifecycle = Lifecycle()
    for step in way:
        lifecycle.to(step)
    assert lifecycle.state is State.STOPPED


@pytest.mark.parametrize(
    ("here", "there"), list(product(State, State)), ids=lambda state: state.value
)
def test_step_outside_table_raises_and_changes_nothing(here: State, there: State) -> None:
    lifecycle = lifecycle_in(here)
    if there in NEXT[here]:
        lifecycle.to(there)
        assert lifecycle.state is there
    else:
        with pytest.raises(IllegalStepError, match=f"from {here.value} to {there.value}"):
            lifecycle.to(there)
        assert lifecycle.state is here


def test_table_has_three_ways_and_no_other_step() -> None:
    ways = (STOPPED, LAME, HANDED_OVER)
    steps = {step for way in ways for step in pairwise([State.STARTING, *way])}
    assert {(here, there) for here in State for there in NEXT[here]} == steps
