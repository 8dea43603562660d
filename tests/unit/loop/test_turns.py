"""Turns: a time of its own for each client, within the spread and before the last moment."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.loop import turns
from graced.loop.policy import Policy
from graced.loop.turns import Turns

SPREAD = 10.0


class Clock:
    """In place of the monotonic time."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        patch.setattr(turns, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_without_a_spread_it_is_the_turn_of_all() -> None:
    found = Policy().new_turns()
    found.begin(0.0)
    assert list(found.give(["a", "b"])) == ["a", "b"]
    assert found.take() == []
    assert found.next == inf
    assert "a" not in found


@given(st.floats(0, 20), st.integers(1, 30))
def test_each_client_has_one_turn_in_time(last: float, number: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch)
        began = clock.now
        found = Turns(SPREAD)
        found.begin(began + last)
        assert not found.give(range(number))
        had = []
        while found.next < inf:
            assert began <= found.next <= began + min(SPREAD, last)
            clock.now = found.next
            had += found.take()
        assert sorted(had) == list(range(number))


def test_turns_are_drawn_over_all_of_the_spread(clock: Clock) -> None:
    found = Turns(SPREAD)
    found.begin(inf)
    found.give(range(10_000))
    per_second = []
    for _ in range(10):
        clock.now += 1.0
        per_second.append(len(found.take()))
    assert sum(per_second) == 10_000
    # Six times the standard deviation.
    assert all(820 < number < 1180 for number in per_second)


def test_client_that_is_given_a_turn_again_has_one(clock: Clock) -> None:
    found = Turns(SPREAD)
    found.begin(inf)
    found.give(["a"])
    found.give(["a"])
    clock.now += SPREAD
    assert found.take() == ["a"]


def test_late_client_has_its_turn_in_the_rest(clock: Clock) -> None:
    found = Turns(SPREAD)
    found.begin(inf)
    clock.now += SPREAD - 1
    found.begin(inf)
    found.give(["a"])
    assert clock.now <= found.next <= clock.now + 1
    clock.now += 5
    found.give(["b"])
    assert sorted(found.take()) == ["a", "b"]


def test_client_that_has_gone_has_no_turn(clock: Clock) -> None:
    found = Turns(SPREAD)
    found.begin(inf)
    found.give(["a", "b"])
    assert "a" in found
    found.discard("a")
    found.discard("c")
    assert "a" not in found
    clock.now += SPREAD
    assert found.take() == ["b"]
