"""Everything graced ever logs: one `Event` each, with its level, its text and its identity.

The `message_id` (made with ``systemd-id128 new``, see sd-messages(3)) stands for what happened
whatever the wording; it is the key into the message catalog (systemd/graced.catalog), and must
never be given to another event.  The fields of the text go into the journal under their own
names, so that ``journalctl GRACED_CLIENT=127.0.0.1:50000`` finds a client.

The program has a log of its own (`graced.log.writer`) and does not import the standard `logging`,
which would be an eighth of its start.  A program that uses graced as a library has no such log:
there the events go to the logger "graced" of `logging`.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from graced.log.writer import Log

LOGGER = "graced"


class Level:
    """How much it matters that something happened."""

    __slots__ = ("name", "number", "priority")

    def __init__(self, name: str, number: int, priority: int) -> None:
        self.name = name
        self.number = number
        """The same as in `logging`; more is worse."""
        self.priority = priority
        """The same in syslog(3)."""


DEBUG = Level("DEBUG", 10, 7)
INFO = Level("INFO", 20, 6)
WARNING = Level("WARNING", 30, 4)
ERROR = Level("ERROR", 40, 3)
CRITICAL = Level("CRITICAL", 50, 2)
LEVELS = {level.name: level for level in (DEBUG, INFO, WARNING, ERROR, CRITICAL)}


def plural(number: object, noun: str) -> str:
    """The number with its noun: "1 client", "2 clients"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class _Counted(dict[str, object]):
    """The fields of a text, which gets a number with its noun by ``%(number:noun)s``."""

    def __missing__(self, key: str) -> str:
        name, _, noun = key.partition(":")
        return plural(self[name], noun)


class Event:
    """A kind of log record; calling it logs one.  Any thread may."""

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
        self.level = level
        self.text = text
        self.per_client = per_client
        """How often it is logged is up to the clients: the journal is protected from a flood."""
        self.final = final
        """Nothing comes after it: what is still to be said is said before."""

    def __str__(self) -> str:
        return self.text

    def enabled(self) -> bool:
        """Whether calling it would log anything."""
        if destination:
            return self.level.number >= destination.level.number
        from logging import getLogger  # noqa: PLC0415

        return getLogger(LOGGER).isEnabledFor(self.level.number)

    def __call__(self, *, exc_info: BaseException | None = None, **fields: Any) -> None:
        if not destination:
            self._log_elsewhere(fields, exc_info)
        elif self.level.number >= destination.level.number:
            # Now, not by who writes it: a queued exception would keep its frames, and so sockets.
            traceback = traceback_of(exc_info) if exc_info else ""
            destination.put(Record(self, fields, traceback))

    def _log_elsewhere(self, fields: dict[str, Any], error: BaseException | None) -> None:
        from logging import getLogger  # noqa: PLC0415

        args = (_Counted(fields),) if fields else ()
        getLogger(LOGGER).log(self.level.number, self, *args, exc_info=error)


class Record:
    """An event that has happened."""

    __slots__ = ("created", "event", "fields", "logger", "traceback")

    def __init__(
        self, event: Event, fields: dict[str, Any], traceback: str = "", logger: str = ""
    ) -> None:
        self.event = event
        self.fields = fields
        self.traceback = traceback
        self.logger = logger
        """That of `logging` which somebody's handler has used; empty: it is graced's own."""
        self.created = time.time()
        """Seconds since the epoch."""

    def __str__(self) -> str:
        """The text, with the traceback."""
        text = self.event.text % _Counted(self.fields) if self.fields else self.event.text
        return f"{text}\n{self.traceback}" if self.traceback else text


destination: Log | None = None
"""The log of this process, see `journal.open_log`; None: events go to `logging`."""


def traceback_of(error: BaseException) -> str:
    """What Python would print about it, without the last line break; empty if that fails."""
    try:
        # Failures are rare, and only they need it: the start does not wait for it.
        from traceback import format_exception  # noqa: PLC0415
    except (ImportError, OSError):
        # No descriptor is left to load it with, or an upgrade has just replaced it.
        return ""
    return "".join(format_exception(error)).removesuffix("\n")


def summary_of(error: BaseException) -> str:
    """Its type and what it says, as at the end of its traceback.  Never fails."""
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in {"__main__", "builtins"}:
        name = f"{kind.__module__}.{name}"
    try:
        text = str(error)
    except BaseException:
        # Somebody else's code.
        text = "<exception str() failed>"
    return f"{name}: {text}".strip() if text else name


STARTED = Event(
    "eebc3d0fba844c5e9e8b32ce68086404",
    INFO,
    "serving on %(addresses)s with pid %(pid)d",
)
CONNECTED = Event(
    "2529371691ee4f95be9d80162c17b5ee",
    INFO,
    "connection from %(client)s",
    per_client=True,
)
CLOSED = Event(
    "7f057eb36f9943519742dd4279117567",
    INFO,
    "closing connection from %(client)s: %(reason)s, %(bytes:byte)s echoed in %(seconds).3f s",
    per_client=True,
)
RECEIVED = Event(
    "c3d282df181842e8b885f177c4d3a78f",
    DEBUG,
    "received from %(client)s: %(data)s",
    per_client=True,
)
SIGNAL = Event(
    "f5a76ca679a340cfad4e450c96a7d1d2",
    INFO,
    "%(signal)s received, closing in %(seconds)g s, %(clients_left:client)s remaining",
)
SIGNAL_AGAIN = Event(
    "d74278d8237d4656b246ddec8a9b884c",
    INFO,
    "%(signal)s received, already closing",
)
SIGNAL_IMPATIENT = Event(
    "4fa4d9f468b348f0b2a5652efa6787fb",
    INFO,
    "%(signal)s received again, ending the grace period now",
)
NOTIFYING = Event(
    "76d13a09ca564b7dbe72ccf17771e257",
    INFO,
    "telling %(clients_left:client)s that the server is going offline",
)
COUNTDOWN = Event(
    "4b779ae099954386815e6573d828c35d",
    INFO,
    "closing in %(seconds)d s, %(clients_left:client)s remaining",
)
STOPPED = Event(
    "e8349aa6f3f24e1c92e73c784359eaa7",
    INFO,
    "stopped after %(seconds).3f s: %(clients_gone:client)s departed,"
    " %(clients_closed)d closed at the deadline",
    final=True,
)
HANDED_OVER = Event(
    "4f87b58082bf4cb4a7d8d4dab39020d3",
    INFO,
    "SIGUSR2 received, handing over %(clients:client)s to the next start,"
    " %(clients_left)d remaining",
)
INHERITED = Event(
    "6a9b6ce1a36c4d15a62d4a6f23e33a6e",
    INFO,
    "inherited %(clients:client)s, unserved for %(milliseconds)d ms",
)
INHERITED_AFTER_CRASH = Event(
    "7ff1e9e4d7154f1e8424ea670d61d35b",
    WARNING,
    "inherited %(clients:client)s from a process that crashed",
)
NOT_INHERITED = Event(
    "dd5cc68cab9e4b2d9dbc4b2eea89ce0f",
    WARNING,
    "clients cannot be inherited and are turned away: %(reason)s",
)
HANDOVER_REFUSED = Event(
    "c9e6d01fc623407d99628991c423c108",
    WARNING,
    "SIGUSR2 received and ignored: there is no service manager to hand over to",
)
HANDOVER_IMPOSSIBLE = Event(
    "55b00013dff642a3acfff2bbe8f11c62",
    WARNING,
    "stopping instead of handing over, because the next start would fail: %(reason)s",
)
STATUS = Event(
    "98beb9f390814837b6f2a35140a6abba",
    INFO,
    "%(status)s",
)
REFUSED = Event(
    "d09ac25e75aa48c28863f7e8ba9d372a",
    WARNING,
    "refused %(refused:client)s, the last from %(client)s: %(reason)s",
)
ACCEPT_PAUSED = Event(
    "ce37d76a0ae344e89e881b9884a9dbc5",
    WARNING,
    "cannot accept clients (%(reason)s), trying again every %(seconds)g s",
)
ACCEPT_RESUMED = Event(
    "069b89c745384e34a6a3504a77aa5ea0",
    INFO,
    "accepting clients again",
)
HANDLER_FAILED = Event(
    "e8d8c58e7dc14ccc8ad452bfac4c194f",
    ERROR,
    "the handler of %(client)s failed: %(reason)s",
    per_client=True,
)
HANDLERS_STUCK = Event(
    "160cd409c9dc4404ae6857ef20cf0a06",
    WARNING,
    "exiting without waiting longer for %(handlers:handler)s",
)
NOT_STARTED = Event(
    "994b9ff18fc54e7da5b4d118e8d02913",
    ERROR,
    "cannot start: %(reason)s",
)
FAILED = Event(
    "f2a788d9c74745ac985aa686487381bc",
    CRITICAL,
    "failed: %(reason)s",
    final=True,
)
NOTIFY_BROKEN = Event(
    "5cedba4daebe451b9cc59237a89bf712",
    WARNING,
    "cannot talk to the service manager: %(reason)s",
)
WATCHDOG_LATE = Event(
    "dc8b0cc7c86f4c1fba02140d830a2e03",
    WARNING,
    "an I/O thread has not turned for %(seconds).1f s, not feeding the watchdog",
)
LOG_DROPPED = Event(
    "7f99ca92fa2b457aa05709bc2a54e0f8",
    WARNING,
    "dropped %(records:log record)s because the log could not keep up",
)
LOG_SUPPRESSED = Event(
    "deaedb0d38824b5bb4893a3f5a4cd41b",
    WARNING,
    "suppressed %(records:log record)s about clients that come and go too fast",
)
LIMITS = Event(
    "f0cf29630b16464ca4f499a7349d0ecf",
    WARNING,
    "%(reason)s",
)
OTHER_MESSAGE_ID = "7f162c10ea4f48c2b6432e31b391dc46"
"""What a handler's own use of `logging` is filed under."""

ALL = {name: value for name, value in vars().items() if isinstance(value, Event)}
