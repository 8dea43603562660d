"""The life of the server: only the steps of its table."""

from __future__ import annotations

from itertools import pairwise, product

import pytest

from graced.lifecycle import NEXT, IllegalStepError, Lifecycle, State

LIFE = [State.SERVING, State.DRAINING, State.CLOSING, State.STOPPED]


def at(state: State) -> Lifecycle:
    """One that has come to `state` by the shortest way."""
    lifecycle = Lifecycle()
    for step in LIFE if state in LIFE else []:
        lifecycle.to(step)
        if step is state:
            break
    if state is State.FAILED:
        lifecycle.to(state)
    assert lifecycle.state is state
    return lifecycle


def test_a_whole_life() -> None:
    assert at(State.STOPPED).state is State.STOPPED


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


def test_there_is_one_way_through_and_failure_at_each_place_of_it() -> None:
    way = [State.STARTING, *LIFE]
    for here, there in pairwise(way):
        assert NEXT[here] == {there, State.FAILED}
    assert NEXT[State.STOPPED] == NEXT[State.FAILED] == frozenset()
