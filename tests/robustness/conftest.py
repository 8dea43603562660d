"""Two sizes of the same tests.

``make test`` runs them in a small form, in less than three minutes on two processors.  With
GRACED_FULL=1 in the environment they run with the figures that were promised: 20,000 steps of the
model, 50,000 configurations, 500 storms of signals, 10,000 clients at once (which takes
``ulimit -n 20000``).  The large form takes half an hour and an otherwise idle machine:

    GRACED_FULL=1 .venv/bin/python -m pytest tests/robustness

What is random is different each time.  A failure names what makes it happen again: hypothesis its
own blob, the others GRACED_SEED=number, to be put into the environment; the failure is then kept
as a test of its own in the same file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from robustness.forge import Forge


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    directory = tmp_path_factory.mktemp("forge")
    with Forge(directory) as forge:
        yield forge


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("place")
