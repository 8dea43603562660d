"""Timers."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from graced.loop.event_source import EventSource
from graced.loop.phase import GONE
from graced.loop.timers import Timers


def expired(timers: Timers, now: float) -> list[EventSource]:
    return list(timers.expired(now))


def test_sources_expire_once_and_in_order() -> None:
    timers = Timers()
    one, two, three = EventSource(1), EventSource(2), EventSource(3)
    for subject, when in ((two, 2.0), (three, 3.0), (one, 1.0)):
        timers.schedule(subject, when)
    assert timers.next == 1.0
    assert expired(timers, 0.5) == []
    assert expired(timers, 2.0) == [one, two]
    assert timers.next == 3.0
    assert expired(timers, 9.0) == [three]
    assert expired(timers, 9.0) == []
    assert timers.next == math.inf


def test_source_that_is_put_off_expires_later_and_once() -> None:
    timers = Timers()
    subject = EventSource(1)
    for when in (1.0, 5.0, 9.0):
        timers.schedule(subject, when)
    assert expired(timers, 8.0) == []
    assert timers.next == 9.0
    assert expired(timers, 9.0) == [subject]
    assert expired(timers, 99.0) == []


def test_source_that_is_brought_forward_expires_earlier_and_once() -> None:
    timers = Timers()
    subject = EventSource(1)
    for when in (9.0, 1.0):
        timers.schedule(subject, when)
    assert expired(timers, 1.0) == [subject]
    assert expired(timers, 99.0) == []


def test_expired_source_can_be_scheduled_again() -> None:
    timers = Timers()
    subject = EventSource(1)
    timers.schedule(subject, 1.0)
    for now in (1.0, 2.0, 3.0):
        for found in timers.expired(now):
            timers.schedule(found, now + 1.0)
    assert timers.next == 4.0


def test_cancelled_sources_do_not_fill_the_heap() -> None:
    timers = Timers()
    stays = EventSource(1)
    timers.schedule(stays, 1e6)
    for number in range(100_000):
        subject = EventSource(1)
        timers.schedule(subject, 1e5 + number)
        subject.phase = GONE
        timers.cancel(subject)
    assert len(timers) < 1000
    assert expired(timers, 1e9) == [stays]


moves = st.lists(st.tuples(st.integers(0, 4), st.floats(0.5, 100), st.booleans()))


@given(moves, st.lists(st.floats(0, 100)))
def test_any_order_of_schedules_and_cancels(
    moves: list[tuple[int, float, bool]], looks: list[float]
) -> None:
    timers = Timers()
    subjects = [EventSource(1) for _ in range(5)]
    due: dict[int, float] = {}
    for number, when, forget in moves:
        if forget:
            timers.cancel(subjects[number])
            due.pop(number, None)
        else:
            timers.schedule(subjects[number], when)
            due[number] = when
    for now in sorted(looks):
        assert timers.next <= min(due.values(), default=math.inf)
        expected = {number for number, when in due.items() if when <= now}
        assert {subjects.index(subject) for subject in timers.expired(now)} == expected
        due = {number: when for number, when in due.items() if number not in expected}
