"""A service with a handler of socketserver that knows nothing of graced."""

from __future__ import annotations

from typing import Any

import pytest

from support import Graced

LONG = "30"
"""Seconds of grace: a stop that takes as long has waited for the deadline."""
QUICK = 5.0
"""Seconds: the server has not waited for the deadline, however busy the machine is."""
WRITTEN = '[shutdown]\nfarewell = "SHUTDOWN"'
CONFIGS = pytest.mark.parametrize("config", ["", WRITTEN], ids=["undeclared", "declared"])


def foreign(name: str, grace: str = LONG, **more: Any) -> Graced:
    return Graced("--handler", f"support.foreign:{name}", "--grace", grace, **more)
