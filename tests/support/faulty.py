"""Handlers in modules that break what happens after a fork, as a bug or the kernel might.

Each is imported by graced before it forks, for ``--handler support.faulty:NAME``.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import Any

from support.handlers import TellingHandler


def __getattr__(name: str) -> Any:
    """Break one thing, and be a handler."""
    if name == "KilledHandler":
        os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGKILL))
    elif name == "FailingStartHandler":
        os.register_at_fork(after_in_child=_break_start)
    elif name == "FullDiskHandler":
        os.register_at_fork(after_in_child=_fill_disk)
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


def _fill_disk() -> None:
    def pwrite(_fd: int, _data: bytes, _offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.pwrite = pwrite  # type: ignore[assignment]
