"""The frames of all threads."""

from __future__ import annotations

import gc
import sys
import threading
from types import FrameType

import pytest

from graced.frames import current_frames


def test_each_thread_has_a_frame() -> None:
    assert current_frames().keys() >= {each.ident for each in threading.enumerate()}


@pytest.mark.parametrize("collects", [True, False])
def test_no_collection_begins_meanwhile(monkeypatch: pytest.MonkeyPatch, collects: bool) -> None:
    """The interpreter's lock is held; afterwards the program's choice holds again."""
    seen: list[bool] = []

    def look() -> dict[int, FrameType]:
        seen.append(gc.isenabled())
        return {}

    monkeypatch.setattr(sys, "_current_frames", look)
    (gc.enable if collects else gc.disable)()
    try:
        assert current_frames() == {}
        assert gc.isenabled() == collects
    finally:
        gc.enable()
    assert seen == [False]
