"""Records that wait while the log daemon is stopped."""

from __future__ import annotations

import errno
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.log.event import Record

MAX_HELD = 200
"""Records that wait for a journal or syslog to appear, or to come back."""
DISCONNECTED = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN, errno.EPIPE})
"""Errors of a socket whose other end has gone."""
_GONE = DISCONNECTED | {errno.ENOENT}


class Held:
    """The last records, oldest first.  For one thread at a time."""

    def __init__(self) -> None:
        self._records: deque[Record] = deque()

    def write(self, record: Record, write: Callable[[Record], None]) -> None:
        """Write a record after those that are held; hold it while nobody listens.

        Raises what `write` raises, where a record is lost.
        """
        self._records.append(record)
        while self._records:
            try:
                write(self._records[0])
            except Exception as error:
                if getattr(error, "errno", 0) in _GONE and len(self._records) <= MAX_HELD:
                    return
                self._records.popleft()
                raise
            self._records.popleft()
