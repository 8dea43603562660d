"""How much is tried, and the randomness of it."""

from __future__ import annotations

import os
from random import Random
from typing import TypeVar

T = TypeVar("T")

FULL = os.environ.get("GRACED_FULL") == "1"
ALL = FULL or bool(os.environ.get("GRACED_ALL_TESTS"))


def scaled(quick: T, full: T) -> T:
    """The one or the other, as GRACED_FULL says."""
    return full if FULL else quick


class Dice(Random):
    """Random choices that can be made again: pytest shows `str` of it with a failure."""

    def __init__(self, seed: int | None = None) -> None:
        if seed is None:
            seed = int(os.environ.get("GRACED_SEED") or int.from_bytes(os.urandom(4)))
        self.number = seed
        super().__init__(seed)

    def __repr__(self) -> str:
        return f"GRACED_SEED={self.number}"
