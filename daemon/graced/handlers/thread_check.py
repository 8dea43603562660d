"""The check that other people's code starts no thread before the daemon forks.

Only threads that run Python code count, however they were started.  A library in C may have threads
that Python does not know, and usually looks after them itself at a fork: OpenBLAS, which numpy
imports, ends them before the fork and starts others when it needs them.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager

from graced.errors import ConfigError
from graced.frames import current_frames
from graced.log.event import plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MOMENT = 0.05
"""Seconds in which a new thread begins to run Python code, or ends if its work is done."""
TASKS = "/proc/self/task"


@contextmanager
def refuse_threads(name: str, when: str) -> Iterator[None]:
    """Raise `ConfigError` if the handler `name` has started a thread; `when`: "at its import"."""
    running, tasks = set(current_frames()), _tasks()
    yield
    until = time.monotonic() + MOMENT
    # The system has a new thread before Python does, where `_thread` has started it.
    while (started := current_frames().keys() - running) or _tasks() - tasks:
        if time.monotonic() >= until:
            break
        time.sleep(0.001)
    if started:
        raise ConfigError(
            f"handler {name!r} starts {plural(len(started), 'thread')} {when},"
            " dead in the daemon, which forks: start it in the hook startup"
        )


def _tasks() -> set[str]:
    """All threads of the process; empty where /proc is not mounted."""
    try:
        return set(os.listdir(TASKS))
    except OSError:
        return set()
