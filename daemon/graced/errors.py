"""What graced refuses or fails to do, and the exit status of each (sysexits.h)."""

from __future__ import annotations

import os
import threading

HANDED_OVER = 79
"""Exit status of a server that has left its clients to the next start, which must follow."""


class GracedError(Exception):
    """A failure that one line on stderr explains; `status` is the exit status it asks for."""

    status = 1


class UsageError(GracedError):
    """The command line makes no sense."""

    status = 2


class ListenError(GracedError):
    """An address cannot be listened on: in use, not permitted, not ours."""

    status = os.EX_UNAVAILABLE


class PidFileError(GracedError):
    """The pidfile cannot be written, or what stands in its place must not be."""

    status = os.EX_CANTCREAT


class AlreadyRunningError(GracedError):
    """The pidfile is locked by a running graced."""

    status = os.EX_TEMPFAIL


class ConfigError(GracedError):
    """A setting is unknown, of the wrong type, out of range or contradicts another."""

    status = os.EX_CONFIG


class FailedError(GracedError):
    """Something unexpected happened; the log has the traceback."""


class StuckError(Exception):
    """A thread of ours does not answer."""


class StartError(GracedError):
    """The start failed: the system has no process or thread for us, or the daemon says so."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def start_thread(thread: threading.Thread) -> None:
    """Start a thread that graced cannot be without.  Raises `StartError`."""
    try:
        thread.start()
    except RuntimeError as error:
        raise StartError(f"cannot start a thread: {error}") from None
