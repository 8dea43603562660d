"""Trying again until a deadline."""

from __future__ import annotations

import time
from collections.abc import Iterator

from support.log import PATIENCE


def attempts(what: str, within: float = PATIENCE) -> Iterator[None]:
    """For a loop that is left with ``break`` when `what` is true; fails after so many seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        yield
    raise AssertionError(f"not within {within:g} s: {what}")
