"""What holds for every test."""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from graced.signals import WATCHED
from support import Leaks, NotifySocket, own_orphans

MISSING: dict[str, int] = {}
"""What tests need and this machine does not have, and how many tests that concerns."""
OF_A_SERVICE = (
    *("INVOCATION_ID", "JOURNAL_STREAM", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"),
    *("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "GRACED_PREFLIGHT", "RUNTIME_DIRECTORY"),
    "GRACED_RELOAD",
)
MISSING_KEY = "missing"
ALL = bool(os.environ.get("GRACED_ALL_TESTS"))
"""Set where a missing tool is a failure."""
MODULE = "module "
"""Begins the name of a Python module in the mark ``needs``."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "needs(*things): commands, absolute paths or ``module NAME``"
    )
    # The tests themselves may be a service (of systemd-run(1), or of a container's manager), and so
    # would be each daemon that they start.
    for name in OF_A_SERVICE:
        os.environ.pop(name, None)
    # What a shell starts in the background ignores SIGINT and SIGQUIT, what nohup(1) starts SIGHUP;
    # what we start would do the same.
    for signum in WATCHED:
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot be run here, to be said at the end: nobody reads a dot that is an s."""
    runnable = [item for item in items if ALL or not _misses(item)]
    if len(runnable) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in runnable])
        items[:] = runnable


def _misses(item: pytest.Item) -> bool:
    missing = [
        thing for mark in item.iter_markers("needs") for thing in mark.args if not _is_here(thing)
    ]
    for thing in missing:
        MISSING[thing] = MISSING.get(thing, 0) + 1
    return bool(missing)


def _is_here(thing: str) -> bool:
    if thing.startswith(MODULE):
        return importlib.util.find_spec(thing.removeprefix(MODULE)) is not None
    return Path(thing).exists() if thing.startswith("/") else shutil.which(thing) is not None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that reports, where the tests run in several (`make test`)."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[MISSING_KEY] = MISSING


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    # Each process has collected, and left out, the same tests.
    MISSING.update(getattr(node, "workeroutput", {}).get(MISSING_KEY, {}))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for thing, count in MISSING.items():
        terminalreporter.write_line(f"{count} tests not run: there is no {thing}")


# A machine may be busy, and a checkout read-only.
hypothesis.settings.register_profile(
    "graced",
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("graced")
# --hypothesis-profile=emulated, where a processor is emulated: the examples are a fifth of all work
# there, and what differs between processors (sizes of numbers, the kernel's interface) is in each.
hypothesis.settings.register_profile(
    "emulated", hypothesis.settings.get_profile("graced"), max_examples=20
)

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
