"""Durations and sizes as people read them."""

from __future__ import annotations

import pytest

from graced.ctl.units import duration, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (86399, "23 h 59 min"),
        (100_000, "1 d 3 h"),
        (100 * 86400, "100 d 0 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "-"),
        (0, "0"),
        (999, "999"),
        (1000, "1.0k"),
        (9949, "9.9k"),
        (9950, "10k"),
        (999_499, "999k"),
        (999_500, "1.0M"),
        (1_500_000, "1.5M"),
        (10**18, "1.0E"),
        (10**21, "1000E"),
    ],
)
def test_size(number: int | None, text: str) -> None:
    assert size(number) == text
