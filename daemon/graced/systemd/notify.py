"""Messages to the service manager: sd_notify(3), over sdnotify.

Without ``NOTIFY_SOCKET`` nothing is sent.  If the socket has no reader (the service manager is
gone, or the path is wrong), the log has one warning and no further message is sent.  If the queue
of the service manager is full, a message waits for `SEND_TIMEOUT` and is lost then; the first loss
in a row is a warning, and later messages are tried again.  The queue has 512 messages, and a slow
generator stops systemd for seconds.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import MutableMapping, Sequence

from sdnotify import SystemdNotifier

from graced.log import events

SEND_TIMEOUT = 1.0
"""Seconds that a message may wait for a service manager that does not read."""
IMPORTANT_TIMEOUT = 5.0
"""The same for messages without which the start or the next process would fail."""
BARRIER_TIMEOUT = 5.0
"""Seconds in which the service manager has to read all messages before a barrier."""


_NO_OTHER_END = frozenset(
    {errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN, errno.EPIPE, errno.ENOENT, errno.EACCES}
)


class Notifier:
    """The line to the service manager.  Main thread only."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """Takes ``WATCHDOG_*`` out of `environ`: the variables name a process before the fork.

        Opens the descriptor at once, so that it can be preserved over a fork.
        """
        self.watchdog = _watchdog(environ)
        """Seconds within which the watchdog has to be fed; 0: there is none."""
        self.managed = bool(environ.get("NOTIFY_SOCKET"))
        """Whether a service manager has started us, even if it listens no more."""
        self._notifier: SystemdNotifier | None = None
        self._losing = False
        if self.managed:
            try:
                self._notifier = SystemdNotifier(debug=True)
            except (OSError, ValueError) as error:
                events.NOTIFY_BROKEN(reason=error)
        else:
            self.watchdog = 0.0

    def __bool__(self) -> bool:
        """Whether a service manager listens."""
        return self._notifier is not None

    def close(self) -> None:
        """Send nothing any more."""
        if self._notifier:
            self._notifier.socket.close()
            self._notifier = None

    def ready(self, status: str) -> None:
        """The start is complete (``READY=1``)."""
        self._send("READY=1", f"STATUS={status}", timeout=IMPORTANT_TIMEOUT)

    def status(self, status: str, extend_by: float = 0.0) -> None:
        """Show a status line; `extend_by` is as in `stopping`, and 0 asks for no time."""
        self._send(f"STATUS={status}", *_extending(extend_by))

    def stopping(self, status: str, extend_by: float) -> None:
        """The stop has begun, and the next message comes within `extend_by` seconds."""
        self._send("STOPPING=1", f"STATUS={status}", *_extending(extend_by))

    def feed_watchdog(self) -> None:
        """The service works (``WATCHDOG=1``)."""
        self._send("WATCHDOG=1")

    def main_pid(self, pid: int) -> None:
        """`pid` is the main process of the service from now on."""
        self._send(f"MAINPID={pid}", timeout=IMPORTANT_TIMEOUT)

    def store(self, name: str, descriptors: Sequence[int]) -> None:
        """Store descriptors for the next process of the service (``FDSTORE=1``)."""
        if descriptors:
            self._send_descriptors(_storing(name), descriptors)

    def replacer(self, name: str) -> Replacer:
        """A line of its own for the descriptor of that name, which any thread may use."""
        return Replacer(self._notifier.socket.dup() if self._notifier else None, name)

    def forget(self, name: str) -> None:
        """Remove the descriptors of that name from the store."""
        self._send("FDSTOREREMOVE=1", f"FDNAME={name}", timeout=IMPORTANT_TIMEOUT)

    def barrier(self) -> None:
        """Return when the service manager has read all messages so far.

        Where that takes more than `BARRIER_TIMEOUT`, the log says so.
        """
        if self._notifier is None:
            return
        read, write = os.pipe()
        try:
            sent = self._send_descriptors(b"BARRIER=1", [write])
            os.close(write)
            poll = select.poll()
            poll.register(read, 0)
            if sent and not poll.poll(BARRIER_TIMEOUT * 1000):
                events.BARRIER_LATE(seconds=BARRIER_TIMEOUT)
        finally:
            os.close(read)

    def _send(self, *assignments: str, timeout: float = SEND_TIMEOUT) -> None:
        if self._notifier is None:
            return
        try:
            self._notifier.socket.settimeout(timeout)
            self._notifier.notify("\n".join(assignments))
            self._losing = False
        except OSError as error:
            self._failed(error)

    def _send_descriptors(self, message: bytes, descriptors: Sequence[int]) -> bool:
        if self._notifier is None:
            return False
        try:
            self._notifier.socket.settimeout(IMPORTANT_TIMEOUT)
            socket.send_fds(self._notifier.socket, [message], descriptors)
        except OSError as error:
            self._failed(error)
            return False
        self._losing = False
        return True

    def _failed(self, error: OSError) -> None:
        """Give the line up where nobody has the other end; anything else may pass."""
        if error.errno in _NO_OTHER_END:
            events.NOTIFY_BROKEN(reason=error)
            self.close()
        elif not self._losing:
            events.NOTIFY_LOST(reason=error.strerror or error)
            self._losing = True


class Replacer:
    """Stores a descriptor instead of the descriptor that has the name now.  One thread at a time.

    It never waits for a service manager that does not read.
    """

    def __init__(self, manager: socket.socket | None, name: str) -> None:
        self._manager = manager
        self._name = name
        self._failing = False
        if manager:
            manager.setblocking(False)

    def __call__(self, descriptor: int) -> bool:
        """Return whether the descriptor was sent; the first failure in a row is a warning."""
        if self._manager is None:
            return False
        try:
            self._manager.send(f"FDSTOREREMOVE=1\nFDNAME={self._name}".encode())
            socket.send_fds(self._manager, [_storing(self._name)], [descriptor])
        except OSError as error:
            if not self._failing:
                events.CANNOT_MIRROR(reason=error.strerror)
            self._failing = True
            return False
        self._failing = False
        return True

    def close(self) -> None:
        """Close the line; the store is not changed."""
        if self._manager:
            self._manager.close()


def _extending(seconds: float) -> list[str]:
    return [f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}"] if seconds else []


def _storing(name: str) -> bytes:
    # FDPOLL=0: a descriptor stays in the store when its other end hangs up.
    return f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0".encode()


def _watchdog(environ: MutableMapping[str, str]) -> float:
    """The seconds of ``WATCHDOG_USEC``, sd_watchdog_enabled(3)."""
    usec = environ.pop("WATCHDOG_USEC", "").lstrip("0")
    pid = environ.pop("WATCHDOG_PID", "")
    if not usec or (pid and pid != str(os.getpid())):
        return 0.0
    if not (usec.isascii() and usec.isdigit() and len(usec) < 20 and int(usec)):
        events.NOTIFY_BROKEN(reason=f"WATCHDOG_USEC is {usec[:40]!r}, not a number of microseconds")
        return 0.0
    return int(usec) / 1_000_000
