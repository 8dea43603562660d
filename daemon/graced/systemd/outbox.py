"""The queue of messages to the service manager: a message that is not taken is sent again.

Sending fails for a moment where the queue of the service manager is full (it has 512 messages, any
local program may fill it, and a slow generator stops systemd for seconds), and where the kernel is
short of memory or has too many descriptors in flight.  Only an address at which nobody listens
(ENOENT, ECONNREFUSED) is final.  So:

* A message that fails stays in the queue and is sent again: at the latest with the next message,
  and when it is `due`.  The first failure in a row is a warning.
* A message without descriptors replaces the waiting message with the same subject, and removing a
  name from the descriptor store replaces all that waits for the name.  The queue stays short,
  however long the service manager does not read, and it hears the last state of everything.
* A message that fails holds up its own lane only: messages about one name of the descriptor store
  keep their order, and so do the messages without descriptors.
* A message that can never be sent (EMSGSIZE for example) is dropped with a warning.
* Where nobody listens, messages wait for `try_again`.

No send waits for the service manager; `flush` does, for a time that its caller names.
"""

from __future__ import annotations

import errno
import math
import select
import socket
import time
from array import array
from threading import Lock

from graced.log import events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    class HasFileno(Protocol):
        """A socket, or anything else with a descriptor; -1: it is closed."""

        def fileno(self) -> int: ...


MIN_RETRY = 0.1
"""Seconds from the first failure to the second try; each further failure doubles the time."""
MAX_RETRY = 5.0
"""Seconds between two tries, at most."""
MAX_SIZE = 4096
"""Bytes of a message; systemd ignores a longer message (NOTIFY_BUFFER_MAX)."""
ROOM_POLL_INTERVAL = 0.02
"""Seconds between two tries of `flush` where the kernel does not report that there is room."""

_NOBODY = frozenset({errno.ENOENT, errno.ECONNREFUSED})
_DISCONNECTED = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN, errno.EPIPE})
_HOPELESS = frozenset({errno.EMSGSIZE, errno.EINVAL, errno.EBADF})
"""Errors of the message, not of the moment."""
_PASSING = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS, errno.EINTR})
"""Errors of a moment, which `flush` waits out."""
_MAYBE_LATER = _PASSING | {errno.EMFILE, errno.ENFILE, errno.EPERM, errno.EACCES}
"""Errors of connect(2) and socket(2) after which connecting is tried again."""


class Message:
    """A message that is to be sent, with descriptors where `files` has some."""

    __slots__ = ("files", "lane", "sent", "subject", "text")

    def __init__(
        self,
        text: str,
        *,
        subject: str,
        lane: str = "",
        files: Sequence[HasFileno] = (),
        sent: Callable[[], None] | None = None,
    ) -> None:
        """`sent` is called when the message has been sent, and when it never will be."""
        self.text = text
        self.subject = subject
        self.lane = lane
        self.files = files
        self.sent = sent

    def over(self) -> None:
        """Let go of the files."""
        if self.sent:
            self.sent()


class Outbox:
    """The queue.  Any thread may call; no call but `flush` waits."""

    def __init__(self, connect: Callable[[], socket.socket], address: str) -> None:
        """`connect` returns a new socket to the service manager, or raises `OSError`."""
        self.due = math.inf
        """Monotonic time at which `flush` should be called; `math.inf`: nothing waits."""
        self.wake: Callable[[], None] | None = None
        """Called when `due` has become earlier."""
        self.broken = False
        """Whether no service manager listens."""
        self._connect = connect
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket: socket.socket | None = None
        self._waiting: list[Message] = []
        self._retry = MIN_RETRY
        self._failing = False
        """Whether the log has a warning about the failures in a row."""
        self._said_broken = False
        self._errno = 0
        """Of the last failure."""
        self._lock = Lock()
        with self._lock:
            self._open()

    def put(self, *messages: Message) -> None:
        """Send messages, or let them wait; see the head of this module for what they replace."""
        with self._lock:
            self._withdraw(*{message.subject for message in messages if not message.lane})
            self._waiting += messages
            self._send_all()

    def replace(self, lane: str, *messages: Message) -> None:
        """Send messages of one lane, or let them wait in the place of all that waits there."""
        with self._lock:
            self._withdraw(*{each.subject for each in self._waiting if each.lane == lane})
            self._waiting += messages
            self._send_all()

    def withdraw(self, subject: str) -> bool:
        """Take messages out of the queue; return whether there were any."""
        with self._lock:
            return self._withdraw(subject)

    def waits(self, subject: str) -> bool:
        """Whether a message with that subject has not been sent."""
        with self._lock:
            return any(message.subject == subject for message in self._waiting)

    def flush(self, timeout: float = 0.0) -> bool:
        """Send all that waits; return whether that was possible within `timeout` seconds.

        Only an error that may pass in this time is waited out.
        """
        until = time.monotonic() + timeout
        while True:
            with self._lock:
                self._send_all()
                if not self._waiting:
                    return True
                error = self._errno
                manager = self._socket.fileno() if self._socket else -1
            remaining = until - time.monotonic()
            if remaining <= 0 or self.broken or error not in _PASSING:
                return False
            poll = select.poll()
            if manager >= 0 and error == errno.EAGAIN:
                # The kernel reports room in a queue, but not the end of ENOBUFS or ENOMEM.
                poll.register(manager, select.POLLOUT)
            poll.poll(1000 * min(remaining, ROOM_POLL_INTERVAL))

    def try_again(self) -> bool:
        """Send the messages that wait since nobody listened; return whether somebody does now."""
        with self._lock:
            if not (self._socket or self._open()):
                return False
            self.broken = self._said_broken = False
            self._send_all()
            return not self.broken

    def close(self) -> None:
        """Send nothing any more, and drop what waits."""
        with self._lock:
            self._withdraw(*{message.subject for message in self._waiting})
            self._give_up()
            self.due = math.inf

    # With the lock held.

    def _withdraw(self, *subjects: str) -> bool:
        gone = [message for message in self._waiting if message.subject in subjects]
        self._waiting = [message for message in self._waiting if message.subject not in subjects]
        for message in gone:
            message.over()
        return bool(gone)

    def _open(self) -> bool:
        try:
            if self._said_broken:
                # sdnotify does not close a socket that it cannot connect.
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
                    probe.connect(self._address)
            self._socket = self._connect()
        except (OSError, ValueError) as error:
            self._cannot_connect(error)
            return False
        return True

    def _give_up(self) -> None:
        self.broken = True
        if self._socket:
            self._socket.close()
            self._socket = None

    def _cannot_connect(self, error: OSError | ValueError) -> None:
        self._errno = getattr(error, "errno", None) or 0
        self.broken = self._errno not in _MAYBE_LATER
        self._say_broken(error)

    def _say_broken(self, error: Exception) -> None:
        if not self._said_broken:
            events.NOTIFY_BROKEN(reason=error)
        self._said_broken = self._failing = True

    def _send_all(self) -> None:
        """Send what can be sent now."""
        held_up: set[str] = set()
        progress = False
        for message in list(self._waiting):
            if self.broken or not (self._socket or self._open()):
                break
            if message.lane in held_up:
                continue
            error = self._send(message)
            if error is None or error.errno in _HOPELESS:
                progress = True
                self._waiting.remove(message)
                message.over()
            else:
                held_up.add(message.lane)
            if error:
                self._report(error)
        self._schedule(progress=progress)

    def _send(self, message: Message) -> OSError | None:
        """Send one message; return the error, if any."""
        try:
            self._transmit(message)
        except OSError as error:
            if error.errno not in _DISCONNECTED:
                return error
            try:
                assert self._socket
                self._socket.connect(self._address)
                self._transmit(message)
            except OSError as again:
                if again.errno in _NOBODY:
                    self._give_up()
                    self._say_broken(error)
                return again
        return None

    def _transmit(self, message: Message) -> None:
        assert self._socket
        data = message.text.encode("utf-8", "backslashreplace")
        if len(data) > MAX_SIZE:
            raise OSError(errno.EMSGSIZE, "Message too long")
        numbers = [fd for fd in (file.fileno() for file in message.files) if fd >= 0]
        if numbers:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", numbers))
            self._socket.sendmsg([data], [rights], socket.MSG_DONTWAIT)
        elif not message.files:
            self._socket.send(data, socket.MSG_DONTWAIT)

    def _report(self, error: OSError) -> None:
        self._errno = error.errno or 0
        if not self._failing:
            self._failing = True
            reason = error.strerror or str(error)
            events.NOTIFY_LOST(reason=f"{reason}, given up" if error.errno in _HOPELESS else reason)

    def _schedule(self, *, progress: bool) -> None:
        if self._socket and not self._waiting:
            self._failing = self._said_broken = False
        if self.broken or not self._waiting:
            self.due = math.inf
            return
        now = time.monotonic()
        if progress or self.due == math.inf:
            asleep = self.due == math.inf
            self._retry = MIN_RETRY
            self.due = now + self._retry
            if asleep and self.wake:
                self.wake()
        elif now >= self.due:
            self._retry = min(2 * self._retry, MAX_RETRY)
            self.due = now + self._retry
