"""Clients that take each read for a message find the farewell, whenever the signal comes."""

from __future__ import annotations

import pytest

from functional.conftest import HANDLERS
from functional.pairs import SIGNALS, run_pairs
from robustness.scale import scaled

EACH = 4
"""Pairs that a signal has at a time, beside those of the other signals."""
ROUNDS = scaled(1, 2)
PAUSE = 0.25


@pytest.mark.parametrize("handler", HANDLERS.values(), ids=list(HANDLERS))
def test_every_client_says_goodbye_and_every_server_ends_early(handler: str) -> None:
    outcomes = [
        outcome
        for _ in range(ROUNDS)
        for outcome in run_pairs(SIGNALS * EACH, PAUSE, "--handler", handler)
    ]
    bad = [outcome for outcome in outcomes if not outcome.good]
    assert not bad, f"{len(bad)} of {len(outcomes)}: {bad[0][:4]}\n{bad[0].log}"
