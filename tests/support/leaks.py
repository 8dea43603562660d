"""What a test may not leave behind: threads, descriptors, processes."""

from __future__ import annotations

import ctypes
import os
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ENOUGH_TO_END = 10.0
"""Seconds that a process may need to end that has nothing more to do."""

_PR_SET_CHILD_SUBREAPER = 36


@contextmanager
def own_orphans() -> Iterator[None]:
    """Become the parent of what daemons leave, so that nothing escapes (prctl(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


class Leaks:
    """What there is now, to be compared with what there is later."""

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())
        self._descriptors = _descriptors()
        self._processes = _children()

    def found(self) -> list[str]:
        """What has come since and has not gone."""
        found = [f"thread {t.name}" for t in set(threading.enumerate()) - self._threads]
        now = _descriptors()
        found += [
            f"descriptor {fd}: {what}"
            for fd, what in now.items()
            if self._descriptors.get(fd) != what
        ]
        for pid in _children() - self._processes:
            _await(pid)
        _reap_orphans()
        found += [f"process {pid}: {_command(pid)}" for pid in _children() - self._processes]
        return found


def _descriptors() -> dict[int, str]:
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        try:
            found[int(path.name)] = os.readlink(path)
        except FileNotFoundError:
            # The one that the listing itself was read through.
            continue
    return found


def children() -> set[int]:
    """The processes whose parent this one is, ended or not."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update(map(int, (task / "children").read_text().split()))
        except FileNotFoundError:
            # That thread has just ended.
            continue
    return found


def _children() -> set[int]:
    return {pid for pid in children() if not _is_zombie(pid)}


def _is_zombie(pid: int) -> bool:
    try:
        # The name of a command, in parentheses, may have blanks and parentheses in it.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _await(pid: int) -> None:
    """Let a process end that is about to: a daemon that failed outlives its command by a bit."""
    try:
        ended = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.poll(ENOUGH_TO_END * 1000)
    finally:
        os.close(ended)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return "gone by now"


def _reap_orphans() -> None:
    """Reap processes that ended without a parent; a test has reaped its own."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
