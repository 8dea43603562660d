"""What the tests of a reload share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from graced.reload.channel import Channel


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def ends(stack: ExitStack) -> tuple[Channel, Channel]:
    """Both ends of a channel."""
    pair = Channel.pair()
    for end in pair:
        stack.callback(end.close)
    return pair
