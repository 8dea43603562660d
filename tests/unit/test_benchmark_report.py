"""The benchmark judges its figures only where they can be judged."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import report  # noqa: E402

DOCUMENT = json.loads((BENCHMARKS / "results" / "results.json").read_text())


@pytest.fixture
def document() -> dict[str, Any]:
    """What a full run on a quiet machine has measured."""
    found: dict[str, Any] = copy.deepcopy(DOCUMENT)
    return found


def test_full_run_on_a_quiet_machine_is_judged(document: dict[str, Any]) -> None:
    assert not report.not_judged(document)
    assert "REACHED" in report.text(document).upper()
    assert "Not judged" not in report.text(document)


def test_quick_run_is_not_judged(document: dict[str, Any]) -> None:
    document["sizes"]["rounds"] = 2
    text = report.text(document)
    assert text.count("Not judged: quick figures: too few rounds.") == 1
    assert "REACHED" not in text.upper()


def test_run_on_a_busy_machine_is_not_judged(document: dict[str, Any]) -> None:
    for servers in document["results"].values():
        for samples in servers.values():
            for sample in filter(None, samples):
                sample["others"] = 1.0
    text = report.text(document)
    assert text.count("Not judged: the machine was busy: ") == 1
    assert "REACHED" not in text.upper()
