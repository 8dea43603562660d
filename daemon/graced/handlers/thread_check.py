"""The check that other people's code starts no thread before the daemon forks.

Only threads that run Python code count, however they were started.  A library in C may have threads
that Python does not know, and usually looks after them itself at a fork: OpenBLAS, which numpy
imports, ends them before the fork and starts others when it needs them.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress

from graced.errors import ConfigError
from graced.frames import current_frames
from graced.log.event import plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MOMENT = 0.05
"""Seconds in which a new thread begins to run Python code, or ends if its work is done."""
LONGEST_MOMENT = 2.0
"""The same where a new thread waits for a processor."""
TASKS = "/proc/self/task"


@contextmanager
def refuse_threads(name: str, when: str) -> Iterator[None]:
    """Raise `ConfigError` if the handler `name` has started a thread; `when`: "at its import"."""
    running, tasks = set(current_frames()), _tasks()
    yield
    began = time.monotonic()
    # The system has a new thread before Python does, where `_thread` has started it.
    while (started := current_frames().keys() - running) or _tasks() - tasks:
        longest = MOMENT if started or not _any_runs(_tasks() - tasks) else LONGEST_MOMENT
        if time.monotonic() - began >= longest:
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


def _any_runs(tasks: set[str]) -> bool:
    """Whether a thread computes, or waits for a processor: see proc_pid_stat(5)."""
    for task in tasks:
        with suppress(OSError), open(f"{TASKS}/{task}/stat", "rb") as file:
            # Of a thread that has ended there is no file.
            if file.read().rpartition(b") ")[2].startswith(b"R"):
                return True
    return False
