"""Clients that take each read for a message find the farewell, whenever the signal comes."""

from __future__ import annotations

import pytest

from functional.conftest import HANDLERS
from functional.pairs import SIGNALS, run_pairs

AT_A_TIME = 8
PAUSE = 0.25


@pytest.mark.parametrize("handler", HANDLERS.values(), ids=list(HANDLERS))
@pytest.mark.parametrize("signame", SIGNALS)
def test_every_client_says_goodbye_and_every_server_ends_early(signame: str, handler: str) -> None:
    outcomes = run_pairs(AT_A_TIME, signame, PAUSE, "--handler", handler)
    bad = [outcome for outcome in outcomes if not outcome.good]
    assert not bad, f"{len(bad)} of {len(outcomes)}: {bad[0][:4]}\n{bad[0].log}"
