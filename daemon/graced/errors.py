"""The errors of graced, each with its exit status (sysexits.h)."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HANDED_OVER = 79
"""Exit status of a server that has handed its clients over; the next start must follow."""
_LONGEST_SHOWN = 60


class GracedError(Exception):
    """A failure, explained by one line on stderr; `status` is the exit status."""

    status = 1
    explained = False
    """Whether another process explains the failure: the command that has started the daemon."""
    passes = False
    """Whether the reason may pass by itself: another start of the service goes on without what this
    start could not get, and tries again to get it."""


class UsageError(GracedError):
    """The command line is wrong."""

    status = 2


class ListenError(GracedError):
    """An address cannot be listened on: in use, not permitted, not of this machine."""

    status = os.EX_UNAVAILABLE
    passes = True


class UnresolvedError(ListenError):
    """A host name cannot be resolved, now."""


class PidFileError(GracedError):
    """The pidfile cannot be written, or its path names a file not to be overwritten."""

    status = os.EX_CANTCREAT
    passes = True


class AlreadyRunningError(GracedError):
    """The pidfile is locked by a running graced."""

    status = os.EX_TEMPFAIL
    passes = True


class ConfigError(GracedError):
    """A setting is unknown, of the wrong type, out of range or contradicts another."""

    status = os.EX_CONFIG


class FailedError(GracedError):
    """An unexpected failure, already logged with its traceback."""


class StuckError(Exception):
    """An I/O thread does not answer."""


class StartError(GracedError):
    """The start failed: no process or thread could be started, or the daemon reported a failure."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def shown(value: Any) -> str:
    """A value as an error shows it: as Python writes it, not too long."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."
