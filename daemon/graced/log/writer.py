"""Where the log goes, and how it gets there without anybody waiting for it.

A record is put on a bounded queue by the thread that logs it and is written by one writer thread,
so a terminal that was stopped with Ctrl-S, a full pipe or a hung journald cost an echo nothing:
when the queue is full records are dropped, counted, and the count is logged once there is room.

The journal is spoken to in its native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/)
over a socket of our own instead of through libsystemd, for three reasons that were measured:
libsystemd keeps its socket in a cache that outlives a daemon's closing of all descriptors, and the
next record goes to whichever client got the number; the last record of a process loses its unit
when journald looks the process up after it is gone, and only who owns the socket can see that it
has been read (`Journal.flush`); and the import costs a third of the start.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import termios
import threading
import time
from fcntl import ioctl
from queue import Empty, SimpleQueue

from graced.errors import start_thread
from graced.log import events
from graced.log.events import LEVELS, Level, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Sink(Protocol):
        """Where records end up.  Used by one thread at a time."""

        def write(self, record: Record) -> None:
            """Write one record.  May block; raises `OSError` where that is impossible."""

        def flush(self, timeout: float) -> None:
            """Wait until what was written has been taken in, `timeout` seconds at most."""


IDENTIFIER = "graced"
JOURNAL_SOCKET = "/run/systemd/journal/socket"
SYSLOG_SOCKET = "/dev/log"

FLUSH_TIMEOUT = 0.1
ACCOUNT_INTERVAL = 1.0
"""Seconds between two records about what was not logged, at least."""
PATIENCE = 0.25
"""Seconds that the end of the program waits for a log that does not keep up."""
_DAEMON_FACILITY = 3 << 3
_LONGEST = 48 * 1024
"""Bytes of a message; a datagram to journald or syslog must fit its socket's buffer."""
CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
CONTROL |= {code: f"\\u{code:04x}" for code in (0x2028, 0x2029)}  # other ends of a line
del CONTROL[ord("\n")]


def message(record: Record) -> str:
    """The record's text, with its traceback, in which nothing but a newline controls a terminal."""
    text = str(record)
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]}\n[...]\n{text[-_LONGEST // 2 :]}"
    return text.translate(CONTROL)


class Stderr:
    """Lines on file descriptor 2, each begun with ``<N>`` (sd-daemon(3)) or, for people, a time.

    The lines of a longer message are indented: no text that a client provides can pass for a
    record.
    """

    def __init__(self, *, for_people: bool) -> None:
        self._for_people = for_people

    def write(self, record: Record) -> None:
        if self._for_people:
            clock = time.strftime("%H:%M:%S", time.localtime(record.created))
            milliseconds = int(record.created % 1 * 1000)
            start = f"{clock}.{milliseconds:03} {record.event.level.name:<8} "
            more = " " * len(start)
        else:
            start = f"<{record.event.level.priority}>"
            more = f"{start}    "
        text = start + message(record).replace("\n", f"\n{more}") + "\n"
        data = text.encode("utf-8", "backslashreplace")
        while data:
            data = data[os.write(2, data) :]

    def flush(self, timeout: float) -> None:
        """Nothing to wait for: a pipe keeps what was written."""


class _LogSocket:
    """A connected datagram socket of a log daemon, which may be restarted."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = self._connect()

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            sock.connect(self._path)
        except OSError:
            sock.close()
            raise
        return sock

    def _send(self, datagram: bytes) -> None:
        try:
            self._socket.send(datagram)
        except OSError as error:
            if error.errno not in {errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN}:
                raise
            fresh = self._connect()
            self._socket.close()
            self._socket = fresh
            self._socket.send(datagram)


class Syslog(_LogSocket):
    """The traditional socket, RFC 3164, for a daemon on a machine without a journal."""

    def __init__(self, path: str = SYSLOG_SOCKET) -> None:
        super().__init__(path)

    def write(self, record: Record) -> None:
        priority = _DAEMON_FACILITY | record.event.level.priority
        for line in message(record).splitlines():
            head = f"<{priority}>{IDENTIFIER}[{os.getpid()}]: "
            self._send((head + line).encode("utf-8", "backslashreplace"))

    def flush(self, timeout: float) -> None:
        """Nothing to wait for: syslog does not look us up."""


def _field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" in data:
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


class Journal(_LogSocket):
    """journald's native socket: every field of an event is a field of the journal."""

    def __init__(self, path: str = JOURNAL_SOCKET) -> None:
        super().__init__(path)

    def write(self, record: Record) -> None:
        event = record.event
        datagram = [
            _field("MESSAGE", message(record)),
            _field("PRIORITY", str(event.level.priority)),
            _field("SYSLOG_IDENTIFIER", IDENTIFIER),
            _field("MESSAGE_ID", event.message_id),
        ]
        if record.logger:
            datagram.append(_field("LOGGER", record.logger))
        datagram += [
            _field(f"GRACED_{name.upper()}", str(value).translate(CONTROL))
            for name, value in record.fields.items()
        ]
        self._send(b"".join(datagram))

    def flush(self, timeout: float) -> None:
        """Return when journald has looked up the sender of the last record.

        It does so right after taking the datagram off the socket and before it takes the next.
        An empty one, which it ignores, is sent behind the last record; when the socket's output
        queue is empty (SIOCOUTQ, unix(7)), the record has its unit.  The kernel has no event for
        that, so this looks every millisecond.
        """
        deadline = time.monotonic() + timeout
        self._socket.setblocking(False)
        try:
            self._socket.send(b"")
            queued = bytearray(4)
            while time.monotonic() < deadline:
                ioctl(self._socket, termios.TIOCOUTQ, queued)
                if not any(queued):
                    return
                time.sleep(0.001)
        except OSError:
            return
        finally:
            self._socket.setblocking(True)


def stderr_is_journal() -> bool:
    """Whether systemd connected stderr to the journal (``$JOURNAL_STREAM``, systemd.exec(5))."""
    status = os.fstat(2)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def open_standard_streams() -> None:
    """Open those that the caller has closed, so that no client gets descriptor 2 and the log."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def stderr_outlives_us() -> bool:
    """Whether a daemon may keep writing to stderr: it is the journal or a file, no terminal.

    Nor a pipe: whoever reads the output of the command that was typed waits for its end.
    """
    return stderr_is_journal() or stat.S_ISREG(os.fstat(2).st_mode)


def sink_for(*, detached: bool) -> Sink:
    """The best place for the log of this process; `detached` when nobody reads its stderr."""
    if detached or stderr_is_journal():
        for kind, path in ((Journal, JOURNAL_SOCKET), (Syslog, SYSLOG_SOCKET)):
            try:
                return kind(path)
            except OSError:
                continue
    return Stderr(for_people=os.isatty(2))


class Flood:
    """A token bucket: how many records about clients may be logged.

    journald drops everything of a unit that logs more than 10,000 records in 30 s, the important
    ones too; clients that connect as fast as they can must not make it.
    """

    def __init__(self, burst: float = 2000.0, rate: float = 200.0) -> None:
        self._burst = self._tokens = burst
        self._rate = rate
        self._last = time.monotonic()

    def admits(self) -> bool:
        """Take a token, if there is one."""
        if self._tokens < 1.0:
            now = time.monotonic()
            self._tokens = min(self._burst, self._tokens + (now - self._last) * self._rate)
            self._last = now
            if self._tokens < 1.0:
                return False
        self._tokens -= 1.0
        return True


class Log:
    """Queues records for a thread that writes them.  Any thread may log; nothing waits.

    Until `start` records are written at once, by the thread that logs them.
    """

    def __init__(self, sink: Sink, level: Level, *, capacity: int = 4096) -> None:
        self.sink = sink
        self.level = level
        self._capacity = capacity
        self._queue: SimpleQueue[Record | None] = SimpleQueue()
        self._flood = Flood()
        self._dropped = 0
        self._suppressed = 0
        self._unwritten = 0
        self._accounted = time.monotonic()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the writer thread: after the fork, threads do not survive one.

        Raises `StartError`.
        """
        thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        start_thread(thread)
        self._thread = thread

    def put(self, record: Record) -> None:
        """Log it, whatever its level."""
        # Without a lock: somebody's handler may fork while another thread has it, and somebody's
        # __del__ may log while this one has it.  A race costs a limit or a count its exactness.
        if self._thread is None:
            self._write(record)
        elif record.event.per_client and not self._flood.admits():
            self._suppressed += 1
        elif self._queue.qsize() >= self._capacity:
            self._dropped += 1
        else:
            self._queue.put(record)

    def stop(self) -> None:
        """Write what is queued and end the thread, within `PATIENCE` seconds or not at all."""
        if self._thread is None:
            self.sink.flush(FLUSH_TIMEOUT)
        else:
            self._queue.put(None)
            self._thread.join(PATIENCE)

    def _write_all(self) -> None:
        while True:
            try:
                record = self._queue.get(timeout=self._until_account())
            except Empty:
                self._account()
                continue
            if record is None:
                break
            if self._until_account() == 0.0 or record.event.final:
                self._account()
            self._write(record)
        self._account()
        self.sink.flush(FLUSH_TIMEOUT)

    def _write(self, record: Record) -> None:
        try:
            self.sink.write(record)
        except OSError:
            # Counted apart: saying so now would fail as well, and again, and again.
            self._unwritten += 1
        else:
            self._dropped += self._unwritten
            self._unwritten = 0

    def _until_account(self) -> float | None:
        """Seconds until it may be said what was not logged; None: there is nothing to say."""
        if not (self._dropped or self._suppressed):
            return None
        return max(0.0, self._accounted + ACCOUNT_INTERVAL - time.monotonic())

    def _account(self) -> None:
        """Say what was not logged."""
        self._accounted = time.monotonic()
        dropped, self._dropped = self._dropped, 0
        suppressed, self._suppressed = self._suppressed, 0
        for event, count in ((events.LOG_DROPPED, dropped), (events.LOG_SUPPRESSED, suppressed)):
            if count:
                self._write(Record(event, {"records": count}))


def open_log(level: str, sink: Sink) -> Log:
    """Send all events to `sink` from `level` up, and return the log to start and stop."""
    log = Log(sink, LEVELS[level.upper()])
    events.destination = log
    return log
