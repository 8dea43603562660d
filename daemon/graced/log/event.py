"""An event: a kind of log record, with its level, its text and its identity.

The events of graced are listed in `graced.log.events`.  Calling an event logs a record: the record
goes to `destination`, the log of the program, or, in a program that uses graced as a library, to
the logger "graced" of the standard `logging`.

The program imports neither `logging` (5.3 to 5.6 ms) nor, at run time, `typing` (3.5 to 3.9 ms),
because a start takes 23 ms at best without them, and 26 ms in the median: from exec(2) to
``READY=1``, 40 starts in turns on the developers' machine (Debian 12, Python 3.11).
docs/benchmarks.md, "What a start consists of", has all such figures.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Destination(Protocol):
        """The log that events are sent to, see `graced.log.writer.Log`."""

        level: Level
        """The lowest level that is logged."""

        def put(self, record: Record) -> None:
            """Log a record.  Any thread may call; never blocks, never raises."""


LOGGER = "graced"
"""The logger of `logging` that events go to where there is no `destination`."""
OTHER_MESSAGE_ID = "7f162c10ea4f48c2b6432e31b391dc46"
"""The MESSAGE_ID of records that a handler has logged with `logging`."""


class Level:
    """The severity of an event."""

    __slots__ = ("name", "number", "priority")

    def __init__(self, name: str, number: int, priority: int) -> None:
        self.name = name
        self.number = number
        """The number of this level in `logging`; a higher number is more severe."""
        self.priority = priority
        """The number of this level in syslog(3); a lower number is more severe."""


DEBUG = Level("DEBUG", 10, 7)
INFO = Level("INFO", 20, 6)
WARNING = Level("WARNING", 30, 4)
ERROR = Level("ERROR", 40, 3)
CRITICAL = Level("CRITICAL", 50, 2)
LEVELS = {level.name: level for level in (DEBUG, INFO, WARNING, ERROR, CRITICAL)}


class Event:
    """A kind of log record; calling an event logs a record.  Any thread may call."""

    __slots__ = ("final", "level", "message_id", "per_client", "text")

    def __init__(
        self,
        message_id: str,
        level: Level,
        text: str,
        *,
        per_client: bool = False,
        final: bool = False,
    ) -> None:
        self.message_id = message_id
        """128 bits in hexadecimal, made with ``systemd-id128 new``; see sd-messages(3)."""
        self.level = level
        self.text = text
        """A format for the operator ``%``, in which ``%(number:noun)s`` becomes "2 nouns"."""
        self.per_client = per_client
        """Whether clients decide how often the event is logged; a token bucket limits the rate."""
        self.final = final
        """Whether the event is the last record of a process."""

    def __str__(self) -> str:
        return self.text

    def enabled(self) -> bool:
        """Whether a call would log a record."""
        if destination:
            return self.level.number >= destination.level.number
        from logging import getLogger  # noqa: PLC0415

        return getLogger(LOGGER).isEnabledFor(self.level.number)

    def __call__(self, *, exc_info: BaseException | None = None, **fields: Any) -> None:
        if not destination:
            self._log_to_logging(fields, exc_info)
        elif self.level.number >= destination.level.number:
            # Formatted by this thread: a queued exception would keep its frames, and so sockets.
            traceback = traceback_of(exc_info) if exc_info else ""
            destination.put(Record(self, fields, traceback))

    def _log_to_logging(self, fields: dict[str, Any], error: BaseException | None) -> None:
        from logging import getLogger  # noqa: PLC0415

        args = (_Fields(fields),) if fields else ()
        getLogger(LOGGER).log(self.level.number, self, *args, exc_info=error)


class Record:
    """An occurrence of an event."""

    __slots__ = ("created", "event", "fields", "logger", "traceback")

    def __init__(
        self, event: Event, fields: dict[str, Any], traceback: str = "", logger: str = ""
    ) -> None:
        self.event = event
        self.fields = fields
        """The values for the text, which are also fields of the journal."""
        self.traceback = traceback
        """The traceback as Python prints a traceback; empty where no exception was logged."""
        self.logger = logger
        """The name of the logger of `logging` that a handler used; empty for events of graced."""
        self.created = time.time()
        """Seconds since the epoch."""

    def __str__(self) -> str:
        """The text, followed by the traceback."""
        text = self.event.text % _Fields(self.fields) if self.fields else self.event.text
        return f"{text}\n{self.traceback}" if self.traceback else text


destination: Destination | None = None
"""The log of this process, see `graced.log.writer.open_log`; None: events go to `logging`."""


def plural(number: object, noun: str) -> str:
    """The number with its noun: "1 client", "2 clients"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class _Fields(dict[str, object]):
    """The fields of a record as the values of its text: ``%(number:noun)s`` is a `plural`."""

    def __missing__(self, key: str) -> str:
        name, _, noun = key.partition(":")
        return plural(self[name], noun)


def traceback_of(error: BaseException) -> str:
    """The traceback as Python prints it, without the last line break; empty on failure."""
    try:
        # Failures are rare, and only a failure needs this import: the start does not wait for it.
        from traceback import format_exception  # noqa: PLC0415
    except (ImportError, OSError):
        # The module cannot be loaded: no descriptor is free, or an upgrade has just replaced it.
        return ""
    return "".join(format_exception(error)).removesuffix("\n")


def summary_of(error: BaseException) -> str:
    """The last line of a traceback: the type of an exception and its text.  Never raises."""
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in {"__main__", "builtins"}:
        name = f"{kind.__module__}.{name}"
    try:
        text = str(error)
    except BaseException:
        # The class is a handler's, and may raise anything.
        text = "<exception str() failed>"
    return f"{name}: {text}".strip() if text else name
