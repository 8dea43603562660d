"""Limits of the system, against limits of the configuration."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from graced.errors import ConfigError
from graced.process import limits


@pytest.fixture
def low_limit() -> Iterator[int]:
    """A low soft limit of descriptors; yields the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        yield hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_soft_limit_is_raised_as_far_as_needed(low_limit: int) -> None:
    limits.raise_descriptors(600, others=10)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (674, low_limit)
    limits.check_descriptors(600, others=10)


def test_soft_limit_is_not_lowered(low_limit: int) -> None:
    limits.raise_descriptors(10, others=10)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (512, low_limit)


def test_too_low_a_limit_is_refused(low_limit: int) -> None:
    limits.check_descriptors(448, others=0)
    with pytest.raises(ConfigError) as caught:
        limits.check_descriptors(449, others=0)
    assert str(caught.value) == (
        "limits.max_clients = 449 needs 513 descriptors, but the limit (RLIMIT_NOFILE) is 512"
    )


def test_limit_of_another_process_can_be_given() -> None:
    limits.check_descriptors(10**9, 0, resource.RLIM_INFINITY)
    with pytest.raises(ConfigError, match=r"is 100$"):
        limits.check_descriptors(100, 0, 100)


def test_lack_of_tasks_is_said() -> None:
    assert limits.lack_of_tasks(256, 264) == ""
    assert limits.lack_of_tasks(256, 0) == ""
    assert limits.lack_of_tasks(256, 263) == (
        "limits.max_handler_threads = 256, but the limit of tasks (TasksMax=) is 263"
    )
