"""Handlers in modules that break what happens after a fork, as a bug or the kernel might.

One of them breaks nothing: it makes the service look in moments at what it looks at once a minute.

Each is imported by graced before it forks, for ``--handler support.faulty:NAME``.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from typing import Any

from graced.app import late_claims
from support.handlers import TellingHandler


def __getattr__(name: str) -> Any:
    """Break one thing, and be a handler."""
    if name == "KilledHandler":
        os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGKILL))
    elif name == "FailingStartHandler":
        os.register_at_fork(after_in_child=_break_start)
    elif name == "FullDiskHandler":
        os.register_at_fork(after_in_child=_fill_disk)
    elif name == "NoLateThreadHandler":
        _break_thread("late claims")
    elif name == "QuickLookHandler":
        late_claims.LONGEST_PAUSE = 0.05
    elif name == "ExitingHandler":
        raise SystemExit(3)
    else:
        raise AttributeError(name)
    return TellingHandler


def _break_start() -> None:
    from graced.loop.io_thread import IOThread

    def start(_self: object) -> None:
        raise LookupError("injected")

    IOThread.start = start  # type: ignore[method-assign, assignment]


def _break_thread(name: str) -> None:
    """The limit of tasks is reached when the thread with this name is to start."""
    start = threading.Thread.start

    def limited(self: threading.Thread) -> None:
        if self.name == name:
            raise RuntimeError("can't start new thread")
        start(self)

    threading.Thread.start = limited  # type: ignore[method-assign]


def _fill_disk() -> None:
    def pwrite(_fd: int, _data: bytes, _offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.pwrite = pwrite  # type: ignore[assignment]
