"""The bridge from the standard `logging`, which handlers use, to the log of graced.

The bridge is imported only for handlers that are not built in: the daemon starts without `logging`.
"""

from __future__ import annotations

import logging

from graced.log.event import DEBUG, LEVELS, OTHER_MESSAGE_ID, Event, Level, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.log.writer import Log

_traceback = logging.Formatter().formatException


class Bridge(logging.Handler):
    """A handler of `logging` that puts each record into the log of graced."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record under the name of its logger.  Any thread may call."""
        level = Level(record.levelname, record.levelno, _priority(record.levelno))
        traceback = record.exc_text or ""
        if record.exc_info and record.exc_info[0]:
            traceback = _traceback(record.exc_info)
        event = Event(OTHER_MESSAGE_ID, level, _text(record))
        converted = Record(event, {}, traceback, record.name)
        converted.created = record.created
        self._log.put(converted)


def _priority(number: int) -> int:
    """The priority for syslog(3) of any level of `logging`: a program may have levels between."""
    below = [level for level in LEVELS.values() if level.number <= number]
    return below[-1].priority if below else DEBUG.priority


def _text(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:
        # The arguments do not fit the text, or their `__str__` raises; the log must survive that.
        return f"a record of the logger {record.name!r} cannot be formatted"


def install(log: Log) -> None:
    """Send all records of `logging` from the level of `log` up to `log`.  Main thread only."""
    # Attributes of a record that graced never prints (the logging HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    logging.raiseExceptions = False
    root = logging.getLogger()
    root.handlers[:] = [Bridge(log)]
    root.setLevel(log.level.number)
