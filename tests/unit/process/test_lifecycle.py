"""The life of the server: only the steps of its table."""

from __future__ import annotations

from itertools import pairwise, product

import pytest

from graced.process.lifecycle import NEXT, IllegalStepError, Lifecycle, State

LIFE = [State.SERVING, State.DRAINING, State.CLOSING, State.STOPPED]


HANDED_OVER = [State.SERVING, State.HANDING_OVER, *LIFE[1:]]


def at(state: State) -> Lifecycle:
    """One that has come to `state` by the shortest way."""
    lifecycle = Lifecycle()
    for life in (LIFE, HANDED_OVER, [State.FAILED]):
        if state in life:
            for step in life[: life.index(state) + 1]:
                lifecycle.to(step)
            break
    assert lifecycle.state is state
    return lifecycle


@pytest.mark.parametrize("life", [LIFE, HANDED_OVER], ids=["stopped", "handed on"])
def test_a_whole_life(life: list[State]) -> None:
    lifecycle = Lifecycle()
    for step in life:
        lifecycle.to(step)
    assert lifecycle.state is State.STOPPED


@pytest.mark.parametrize(
    ("here", "there"), list(product(State, State)), ids=lambda state: state.value
)
def test_a_step_is_in_the_table_or_raises_and_changes_nothing(here: State, there: State) -> None:
    lifecycle = at(here)
    if there in NEXT[here]:
        lifecycle.to(there)
        assert lifecycle.state is there
    else:
        with pytest.raises(IllegalStepError, match=f"from {here.value} to {there.value}"):
            lifecycle.to(there)
        assert lifecycle.state is here


def test_there_are_two_ways_through_and_failure_at_each_place_of_them() -> None:
    ways = [*pairwise([State.STARTING, *LIFE]), *pairwise([State.STARTING, *HANDED_OVER])]
    for here in State:
        steps = {there for start, there in ways if start is here}
        assert NEXT[here] == (steps | {State.FAILED} if steps else set())
