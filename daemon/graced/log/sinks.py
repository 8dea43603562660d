"""The places that the log can be written to: stderr, journald, syslog.

journald is spoken to in its native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/) over a
socket of graced's own, and not through libsystemd, for three measured reasons:

* libsystemd caches its socket.  A daemon closes all descriptors, the number is reused for a client,
  and the next record is sent to that client.
* journald looks up the unit of a sender after the datagram has arrived.  The last record of a
  process loses its unit if the process has gone by then.  Only the owner of the socket can see that
  journald has read the record (`Journal.flush`).
* importing the binding (python3-systemd) takes 10 ms; a start takes 23 ms at best without that.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import termios
import time
from fcntl import ioctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from graced.log.event import Record

    class Sink(Protocol):
        """A place that records are written to.  For one thread at a time."""

        def write(self, record: Record) -> None:
            """Write one record.  May block.  Raises `OSError`."""

        def flush(self, timeout: float) -> None:
            """Wait until all records have arrived, for `timeout` seconds at most."""


IDENTIFIER = "graced"
"""SYSLOG_IDENTIFIER of the journal, the tag of syslog."""
JOURNAL_SOCKET = "/run/systemd/journal/socket"
SYSLOG_SOCKET = "/dev/log"

FLUSH_POLL_INTERVAL = 0.001
"""Seconds between two looks at the output queue of the journal's socket."""
_DAEMON_FACILITY = 3 << 3
"""LOG_DAEMON of syslog(3)."""
_MAX_MESSAGE = 48 * 1024
"""Bytes of a message; a datagram to journald or syslog must fit into its socket's buffer."""
CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
"""Escapes for `str.translate`: control characters, and line ends other than a newline."""
CONTROL |= {code: f"\\u{code:04x}" for code in (0x2028, 0x2029)}
del CONTROL[ord("\n")]


def message(record: Record) -> str:
    """The text and the traceback of a record, in which only a newline controls a terminal."""
    text = str(record)
    if len(text) > _MAX_MESSAGE:
        text = f"{text[: _MAX_MESSAGE // 2]}\n[...]\n{text[-_MAX_MESSAGE // 2 :]}"
    return text.translate(CONTROL)


class Stderr:
    """Lines on file descriptor 2.  Each line begins with ``<N>`` (sd-daemon(3)), or with a time.

    The second line of a message and all further lines are indented: a text that a client provides
    cannot pass for a record.
    """

    def __init__(self, *, for_people: bool) -> None:
        """`for_people`: whether a line begins with its time and level instead of ``<N>``."""
        self._for_people = for_people

    def write(self, record: Record) -> None:
        if self._for_people:
            clock = time.strftime("%H:%M:%S", time.localtime(record.created))
            milliseconds = int(record.created % 1 * 1000)
            start = f"{clock}.{milliseconds:03} {record.event.level.name:<8} "
            indent = " " * len(start)
        else:
            start = f"<{record.event.level.priority}>"
            indent = f"{start}    "
        text = start + message(record).replace("\n", f"\n{indent}") + "\n"
        data = text.encode("utf-8", "backslashreplace")
        while data:
            data = data[os.write(2, data) :]

    def flush(self, timeout: float) -> None:
        """Return at once: a pipe keeps its data after the writer has gone."""


class _LogSocket:
    """A connected datagram socket of a log daemon; connects again after a restart of the daemon."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = self._connect()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

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
            reconnected = self._connect()
            self._socket.close()
            self._socket = reconnected
            self._socket.send(datagram)


class Syslog(_LogSocket):
    """The socket of a syslog daemon (RFC 3164), for machines without a journal."""

    def __init__(self, path: str = SYSLOG_SOCKET) -> None:
        """Connect.  Raises `OSError`."""
        super().__init__(path)

    def write(self, record: Record) -> None:
        priority = _DAEMON_FACILITY | record.event.level.priority
        for line in message(record).splitlines():
            head = f"<{priority}>{IDENTIFIER}[{os.getpid()}]: "
            self._send((head + line).encode("utf-8", "backslashreplace"))

    def flush(self, timeout: float) -> None:
        """Return at once: a syslog daemon does not look up the sender."""


def _field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" in data:
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


class Journal(_LogSocket):
    """The native socket of journald: each field of a record is a field of the journal."""

    def __init__(self, path: str = JOURNAL_SOCKET) -> None:
        """Connect.  Raises `OSError`."""
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

        journald looks up the sender right after taking the datagram off the socket, before taking
        the next datagram.  An empty datagram, which journald ignores, is sent behind the last
        record; when the output queue of the socket is empty (SIOCOUTQ, unix(7)), the last record
        has its unit.  The kernel reports no event for that, so the queue is polled.
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
                time.sleep(FLUSH_POLL_INTERVAL)
        except OSError:
            return
        finally:
            self._socket.setblocking(True)


def stderr_is_journal() -> bool:
    """Whether systemd connected stderr to the journal (``$JOURNAL_STREAM``, systemd.exec(5))."""
    status = os.fstat(2)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def open_standard_streams() -> None:
    """Open the descriptors 0 to 2 that are closed: a client's socket must not get number 2."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def stderr_outlives_us() -> bool:
    """Whether a daemon may keep writing to stderr: to the journal or to a regular file.

    Not to a terminal; nor to a pipe, since its reader waits for end of file.
    """
    return stderr_is_journal() or stat.S_ISREG(os.fstat(2).st_mode)


def sink_for(*, detached: bool) -> Sink:
    """The best place for the log of this process; `detached`: nobody reads its stderr."""
    if detached or stderr_is_journal():
        for kind, path in ((Journal, JOURNAL_SOCKET), (Syslog, SYSLOG_SOCKET)):
            try:
                return kind(path)
            except OSError:
                continue
    return Stderr(for_people=os.isatty(2))
