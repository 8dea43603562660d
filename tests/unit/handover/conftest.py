"""What the tests of a handover share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from handover.last_process import LastProcess


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def last(stack: ExitStack, tmp_path: Path) -> LastProcess:
    return LastProcess(stack, tmp_path)
