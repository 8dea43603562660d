"""Fixtures of the loop's tests: scenes and parts, closed after each test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from loop.scene import Make, MakeParts, Parts, Scene


@pytest.fixture
def make() -> Iterator[Make]:
    with ExitStack() as stack:

        def make(*args: Any, **options: Any) -> Scene:
            scene = Scene(*args, **options)
            stack.callback(scene.close)
            return scene

        yield make


@pytest.fixture
def make_parts() -> Iterator[MakeParts]:
    with ExitStack() as stack:

        def make_parts(**options: Any) -> Parts:
            parts = Parts(**options)
            stack.callback(parts.close)
            return parts

        yield make_parts


@pytest.fixture
def parts(make_parts: MakeParts) -> Parts:
    return make_parts()
