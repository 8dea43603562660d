"""Python imports this by itself: the clock on the wall jumps by up to a week at each look."""

from __future__ import annotations

import random
import time

_WEEK = 7 * 86400
_now = time.time


def _time() -> float:
    return _now() + random.uniform(-_WEEK, _WEEK)


def _time_ns() -> int:
    return int(_time() * 1e9)


time.time = _time
time.time_ns = _time_ns
