"""From the standard `logging`, which somebody's handler uses, to graced's own log.

It is imported for such a handler only: the daemon itself starts without `logging`.
"""

from __future__ import annotations

import logging

from graced.log.events import INFO, LEVELS, OTHER_MESSAGE_ID, Event, Level, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.log.writer import Log

_PRIORITIES = {level.number: level.priority for level in LEVELS.values()}
_traceback = logging.Formatter().formatException


class Bridge(logging.Handler):
    """Puts what comes by `logging` into graced's log, under the name of its logger."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Log it.  Any thread may call."""
        priority = _PRIORITIES.get(record.levelno, INFO.priority)
        level = Level(record.levelname, record.levelno, priority)
        traceback = record.exc_text or ""
        if record.exc_info and record.exc_info[0]:
            traceback = _traceback(record.exc_info)
        event = Event(OTHER_MESSAGE_ID, level, _text(record))
        ours = Record(event, {}, traceback, record.name)
        ours.created = record.created
        self._log.put(ours)


def _text(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:
        # Arguments that do not fit, or cannot be shown; the log must survive that.
        return f"a record of the logger {record.name!r} cannot be formatted"


def install(log: Log) -> None:
    """Send all of `logging` to `log`, from its level up."""
    # What a record would look up and graced never prints (the logging HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    logging.raiseExceptions = False
    root = logging.getLogger()
    root.handlers[:] = [Bridge(log)]
    root.setLevel(log.level.number)
