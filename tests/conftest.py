"""What holds for every test."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from support import Leaks, NotifySocket, own_orphans

DESCRIPTORS = 8192
"""For a test with a thousand clients; a shell starts with 1024."""


@pytest.fixture(scope="session", autouse=True)
def _descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(autouse=True)
def _leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves a thread, a descriptor or a process behind.

    But those on devices, whose machines run for all of them and have orphans of their own.
    """
    if "device" in request.path.parts:
        yield
        return
    with own_orphans():
        before = Leaks()
        yield
        found = before.found()
    assert not found, f"left behind: {', '.join(found)}"


@pytest.fixture
def notify_socket() -> Iterator[NotifySocket]:
    with NotifySocket() as notify:
        yield notify
