"""What a process does, as the kernel counts it."""

from __future__ import annotations

import select
from pathlib import Path

MOMENT = 0.1
TRIES = 100


class Activity(dict[str, tuple[str, ...]]):
    """Of each thread, by its number.

    Whoever makes a system call, and returns from the one it slept in, has run: its time on a
    processor (in nanoseconds, /proc/PID/task/TID/schedstat) and its context switches are more
    than before.
    """

    def __init__(self, pid: int) -> None:
        self.asleep = True
        """Whether none of them runs, or would if there were a processor for it."""
        for task in Path(f"/proc/{pid}/task").iterdir():
            status = (task / "status").read_text().splitlines()
            switches = [line for line in status if "ctxt_switches" in line]
            assert len(switches) == 2
            self.asleep = self.asleep and "State:\tS (sleeping)" in status
            run_time, _, slices = (task / "schedstat").read_text().split()
            self[task.name] = (run_time, slices, *switches)


def settled(pid: int) -> bool:
    """Wait until what has been asked for is done: until all threads sleep, for a moment."""
    before = Activity(pid)
    for _ in range(TRIES):
        select.poll().poll(MOMENT * 1000)
        now = Activity(pid)
        if now.asleep and now == before:
            return True
        before = now
    return False
