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
import fcntl
import os
import select
import socket
import stat
import struct
import sys
import termios
import time
from collections import deque

from graced.log.held import DISCONNECTED, MAX_HELD, Held

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from graced.log.event import Record

    class Sink(Protocol):
        """A place that records are written to.  For one thread at a time."""

        def write(self, record: Record) -> None:
            """Write one record.  May block.  Raises `OSError`."""

        def flush(self, timeout: float) -> None:
            """Wait until all records have arrived, for `timeout` seconds at most."""


IDENTIFIER = "graced"
"""SYSLOG_IDENTIFIER of the journal, the tag of syslog; unless `identify` names another."""
_identifier = IDENTIFIER
JOURNAL_SOCKET = "/run/systemd/journal/socket"
SYSLOG_SOCKET = "/dev/log"

FLUSH_POLL_INTERVAL = 0.001
"""Seconds between two looks at the output queue of the journal's socket."""
_DAEMON_FACILITY = 3 << 3
"""LOG_DAEMON of syslog(3)."""
_MAX_MESSAGE = 48 * 1024
"""Bytes of a message, in UTF-8: the beginning and the end of a longer text, with a mark between."""
_MAX_LINES = 1000
"""Lines of a message."""
_MAX_FIELD = 4 * 1024
"""Bytes of any other field of the journal."""
_MAX_SYSLOG_LINE = 8 * 1024
"""Bytes of a line for syslog: what rsyslog takes (its $MaxMessageSize)."""
_LAST_RESORT = 900
"""Bytes of a message where a longer one is not taken: RFC 3164 has 1024 for all of a packet."""
_TOO_LONG = frozenset({errno.EMSGSIZE, errno.ENOBUFS})
"""Errors for a datagram that does not fit into the buffer of its socket."""
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
"""Escapes for `str.translate`: control characters, and line ends other than a newline."""
CONTROL |= {code: f"\\u{code:04x}" for code in (0x2028, 0x2029)}
del CONTROL[ord("\n")]


def identify(identifier: str) -> None:
    """Name the log of this process, as openlog(3) does.  Before a record is written."""
    global _identifier  # noqa: PLW0603
    _identifier = identifier


def identifier() -> str:
    """The name of the log of this process."""
    return _identifier


def message(record: Record) -> str:
    """The text and the traceback of a record, in which only a newline controls a terminal.

    Not longer than `_MAX_MESSAGE` and `_MAX_LINES`: of a longer text both ends.
    """
    try:
        text = str(record)
    except Exception as error:
        # A value is of a handler's class, and its `__str__` may raise anything.
        text = f"{record.event.text} (not formatted: {type(error).__name__})"
    text = _cut(text, _MAX_MESSAGE, "\n[...]\n")
    if text.count("\n") > _MAX_LINES:
        lines = text.split("\n")
        text = "\n".join([*lines[: _MAX_LINES // 2], "[...]", *lines[-_MAX_LINES // 2 :]])
    return text


def _cut(text: str, limit: int, mark: str) -> str:
    """Both ends of a text that is longer than `limit` bytes; control characters are escaped."""
    half = limit // 2
    if len(text) > limit:
        text = text[:half] + mark + text[-half:]
    if not text.isprintable():
        # The look saves most texts a translation, which takes four times as long.
        text = text.translate(CONTROL)
    data = text.encode("utf-8", "backslashreplace")
    if len(data) > limit + len(mark):
        text = data[:half].decode("utf-8", "ignore") + mark + data[-half:].decode("utf-8", "ignore")
    return text


class Stderr:
    """Lines on file descriptor 2.  Each line begins with ``<N>`` (sd-daemon(3)), or with a time.

    The second line of a message and all further lines are indented: a text that a client provides
    cannot pass for a record.
    """

    def __init__(self, *, for_people: bool) -> None:
        """`for_people`: whether a line begins with its time and level instead of ``<N>``."""
        self._for_people = for_people
        self._torn = False

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
        if self._torn:
            data = b"\n" + data
        size = len(data)
        try:
            while data:
                data = data[_write_to_stderr(data) :]
        finally:
            # After a part of a record the next record begins on a line of its own.
            self._torn = self._torn if len(data) == size else bool(data)

    def flush(self, timeout: float) -> None:
        """Return at once: a pipe keeps its data after the writer has gone."""


def _write_to_stderr(data: bytes) -> int:
    try:
        return os.write(2, data)
    except BlockingIOError:
        # Another program that shares the pipe or terminal has set O_NONBLOCK.
        poll = select.poll()
        poll.register(2, select.POLLOUT)
        poll.poll()
        return os.write(2, data)


class _LogSocket:
    """A connected datagram socket of a log daemon; connects again after a restart of the daemon.

    While the daemon is stopped the last records are held.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._held = Held()
        self._socket = self._connect()

    def write(self, record: Record) -> None:
        """Write a record, after those that are held.  Raises `OSError` where one is lost."""
        self._held.write(record, self._write)

    def _write(self, record: Record) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _connect(self, kind: socket.SocketKind = socket.SOCK_DGRAM) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, kind)
        try:
            sock.connect(self._path)
        except OSError:
            sock.close()
            raise
        return sock

    def _send(self, datagram: bytes, descriptors: Sequence[int] = ()) -> None:
        try:
            self._transmit(datagram, descriptors)
        except OSError as error:
            if error.errno not in DISCONNECTED:
                raise
            reconnected = self._connect()
            self._socket.close()
            self._socket = reconnected
            self._transmit(datagram, descriptors)

    def _transmit(self, datagram: bytes, descriptors: Sequence[int]) -> None:
        if descriptors:
            socket.send_fds(self._socket, [datagram], descriptors)
        else:
            self._socket.sendall(datagram)


class Syslog(_LogSocket):
    """The socket of a syslog daemon (RFC 3164), for machines without a journal."""

    def __init__(self, path: str = SYSLOG_SOCKET) -> None:
        """Connect.  Raises `OSError`."""
        super().__init__(path)

    def _connect(self, kind: socket.SocketKind = socket.SOCK_DGRAM) -> socket.socket:
        try:
            return super()._connect(kind)
        except OSError as error:
            if error.errno != errno.EPROTOTYPE or kind != socket.SOCK_DGRAM:
                raise
            # As syslog(3): some daemons listen for connections.
            return super()._connect(socket.SOCK_STREAM)

    def _write(self, record: Record) -> None:
        priority = _DAEMON_FACILITY | record.event.level.priority
        head = f"<{priority}>{_identifier}[{os.getpid()}]: "
        for line in message(record).splitlines():
            try:
                self._send_line(head + _cut(line, _MAX_SYSLOG_LINE, " [...] "))
            except OSError as error:
                if error.errno not in _TOO_LONG:
                    raise
                self._send_line(head + _cut(line, _LAST_RESORT, " [...] "))

    def _send_line(self, line: str) -> None:
        data = line.encode("utf-8", "backslashreplace")
        if self._socket.type == socket.SOCK_STREAM:
            self._send(data + b"\0")
        else:
            self._send(data)

    def flush(self, timeout: float) -> None:
        """Return at once: a syslog daemon does not look up the sender."""


def _value(value: object) -> str:
    try:
        text = str(value)
    except Exception as error:
        text = f"(not formatted: {type(error).__name__})"
    return _cut(text, _MAX_FIELD, " [...] ")


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

    def _write(self, record: Record) -> None:
        event = record.event
        text = message(record)
        head = b"".join(
            [
                _field("PRIORITY", str(event.level.priority)),
                _field("SYSLOG_IDENTIFIER", _identifier),
                _field("MESSAGE_ID", event.message_id),
            ]
        )
        fields = [
            _field(f"GRACED_{name.upper()}", _value(value)) for name, value in record.fields.items()
        ]
        if record.logger:
            fields.append(_field("LOGGER", _value(record.logger)))
        datagram = b"".join([_field("MESSAGE", text), head, *fields])
        try:
            self._send(datagram)
        except OSError as error:
            if error.errno not in _TOO_LONG:
                raise
            try:
                self._send_as_file(datagram)
            except OSError:
                self._send(_field("MESSAGE", _cut(text, _LAST_RESORT, "\n[...]\n")) + head)

    def _send_as_file(self, record: bytes) -> None:
        """Send a record that does not fit into a datagram, as the protocol has it."""
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        with open(os.memfd_create(IDENTIFIER, flags), "wb") as file:
            file.write(record)
            file.flush()
            fcntl.fcntl(file.fileno(), fcntl.F_ADD_SEALS, _SEALS)
            self._send(b"", [file.fileno()])

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
                fcntl.ioctl(self._socket, termios.TIOCOUTQ, queued)
                if not any(queued):
                    return
                time.sleep(FLUSH_POLL_INTERVAL)
        except OSError:
            return
        finally:
            self._socket.setblocking(True)


class Unfound:
    """The journal or syslog of a machine that had neither when the daemon was started.

    Both are looked for at each record.  Until then the last records are held; older ones are lost.
    """

    def __init__(self) -> None:
        self._held: deque[Record] = deque()
        self._found: Sink | None = None

    def write(self, record: Record) -> None:
        self._held.append(record)
        self._found = self._found or _log_socket()
        while self._found and self._held:
            self._found.write(self._held.popleft())
        if len(self._held) > MAX_HELD:
            self._held.popleft()
            raise FileNotFoundError(errno.ENOENT, "no journal, no syslog")

    def flush(self, timeout: float) -> None:
        if self._found:
            self._found.flush(timeout)


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
    # Python has no `sys.stderr` where our caller has closed the descriptor.
    if detached or not sys.stderr:
        return _log_socket() or Unfound()
    found = _log_socket() if stderr_is_journal() else None
    return found or Stderr(for_people=os.isatty(2))


def _log_socket() -> Journal | Syslog | None:
    for kind, path in ((Journal, JOURNAL_SOCKET), (Syslog, SYSLOG_SOCKET)):
        try:
            return kind(path)
        except OSError:
            continue
    return None
