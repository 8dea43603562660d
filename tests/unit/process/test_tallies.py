"""Counts by name, over the processes of a service."""

from __future__ import annotations

from typing import Any

import pytest

from graced.log.event import INFO
from graced.log.writer import Log
from graced.loop.admission import Admission
from graced.process.tallies import HANDOVER_BOUNDS, Tallies


class Nowhere:
    """A sink."""

    def write(self, record: Any) -> None:
        pass

    def flush(self, timeout: float) -> None:
        pass


def new() -> tuple[Tallies, Log, Admission]:
    log, admission = Log(Nowhere(), INFO), Admission(10, 0)
    tallies = Tallies(log)
    tallies.go_on({}, admission)
    return tallies, log, admission


def test_nothing_is_counted_at_first() -> None:
    tallies, _, _ = new()
    assert tallies.now() == {}


def test_next_process_goes_on() -> None:
    tallies, log, admission = new()
    log._dropped, log._suppressed = 3, 4
    admission.refuse("max_clients = 10 reached")
    tallies.count_handover(120)
    after, next_log, next_admission = new()
    after.go_on(tallies.now(), next_admission)
    assert after.now() == tallies.now()
    assert next_log.losses == (3, 4)
    next_log._suppressed = 1
    next_admission.refuse("max_clients = 10 reached")
    next_admission.refuse("access.deny has ::/0")
    after.count_handover(130)
    assert next_log.losses == (3, 5)
    assert next_admission.refused_by == {"max_clients": 2, "access.deny": 1}
    assert sum(after.handovers) == 2
    assert after.handover_seconds == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("milliseconds", "number"),
    [(0, 0), (100, 0), (101, 1), (10_000, len(HANDOVER_BOUNDS) - 1), (10_001, -1)],
)
def test_handover_is_in_the_class_of_its_upper_bound(milliseconds: int, number: int) -> None:
    tallies, _, _ = new()
    tallies.count_handover(milliseconds)
    assert tallies.handovers[number] == sum(tallies.handovers) == 1


def test_counts_of_a_later_release_do_no_harm() -> None:
    tallies, _, admission = new()
    tallies.go_on({"something new": 7, "handovers 99": 1, "refused ": 2}, admission)
    assert sum(tallies.handovers) == 0
