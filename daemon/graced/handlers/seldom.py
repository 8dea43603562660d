"""A warning about a state that may last: seldom, and not for each client."""

from __future__ import annotations

import math
import time

INTERVAL = 600.0
"""Seconds between two warnings, at least."""


class Seldom:
    """When the last warning was.  Any thread may call; two may warn at once."""

    def __init__(self) -> None:
        self._at = -math.inf

    def is_due(self) -> bool:
        """Whether to warn now; the next warning is due an interval later."""
        now = time.monotonic()
        if now - self._at < INTERVAL:
            return False
        self._at = now
        return True
