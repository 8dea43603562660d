"""The words of sd_notify(3), over sdnotify.

Without ``NOTIFY_SOCKET`` all of it is silent; a socket that cannot be used is one warning.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import suppress

from sdnotify import SystemdNotifier

from graced.log import events

SEND_TIMEOUT = 1.0
"""Seconds that a message may wait for a service manager that does not read."""
BARRIER_TIMEOUT = 5.0


class Notifier:
    """Tells the service manager how we are.  Main thread only."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """Takes ``WATCHDOG_*`` out of `environ`: they name a process that a fork leaves behind.

        The descriptor is opened here, so that it can be preserved over a fork.
        """
        self.watchdog = _watchdog(environ)
        """Seconds within which the watchdog wants to be fed; 0: there is none."""
        self.managed = bool(environ.get("NOTIFY_SOCKET"))
        """Whether a service manager has started us, be it that it does not listen any more."""
        self._notifier: SystemdNotifier | None = None
        self._said: set[str] = set()
        """What cannot be done, and has been said."""
        if self.managed:
            try:
                self._notifier = SystemdNotifier(debug=True)
                self._notifier.socket.settimeout(SEND_TIMEOUT)
            except (OSError, ValueError) as error:
                events.NOTIFY_BROKEN(reason=error)
        else:
            self.watchdog = 0.0

    def __bool__(self) -> bool:
        """Whether anybody listens."""
        return self._notifier is not None

    def close(self) -> None:
        """Say nothing any more."""
        if self._notifier:
            self._notifier.socket.close()
            self._notifier = None

    def ready(self, status: str) -> None:
        self._send("READY=1", f"STATUS={status}")

    def status(self, status: str, patience: float = 0.0) -> None:
        """`patience`: as in `stopping`; 0: as long as the service manager likes."""
        self._send(f"STATUS={status}", *_extending(patience))

    def stopping(self, status: str, patience: float) -> None:
        """We are going; do not lose patience within `patience` seconds."""
        self._send("STOPPING=1", f"STATUS={status}", *_extending(patience))

    def feed_watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def main_pid(self, pid: int) -> None:
        """`pid` is the main process of the service from now on."""
        self._send(f"MAINPID={pid}")

    def store(self, name: str, descriptors: Sequence[int]) -> None:
        """Keep descriptors for the next start of the service, FDSTORE in sd_notify(3)."""
        if self._notifier is None or not descriptors:
            return
        try:
            socket.send_fds(self._notifier.socket, [_storing(name)], descriptors)
        except OSError as error:
            # A message without descriptors may well get through, and the watchdog waits for one.
            self._cannot("store descriptors", error)

    def replacer(self, name: str) -> Callable[[int], None]:
        """A function that has a descriptor kept instead of the one that has this name.

        Any thread may call it.  It never waits: where the service manager does not read, nothing
        is kept.
        """
        manager = self._notifier.socket.dup() if self._notifier else None

        def replace(descriptor: int) -> None:
            if manager:
                manager.setblocking(False)
                with suppress(OSError):
                    manager.send(f"FDSTOREREMOVE=1\nFDNAME={name}".encode())
                    socket.send_fds(manager, [_storing(name)], [descriptor])

        return replace

    def forget(self, name: str) -> None:
        """Keep the descriptors of that name no longer."""
        self._send("FDSTOREREMOVE=1", f"FDNAME={name}")

    def barrier(self) -> None:
        """Return when the service manager has read all that was sent before."""
        if self._notifier is None:
            return
        read, write = os.pipe()
        try:
            try:
                socket.send_fds(self._notifier.socket, [b"BARRIER=1"], [write])
            finally:
                os.close(write)
            poll = select.poll()
            poll.register(read, 0)
            poll.poll(BARRIER_TIMEOUT * 1000)
        except OSError as error:
            self._cannot("wait for it", error)
        finally:
            os.close(read)

    def _send(self, *assignments: str) -> None:
        if self._notifier is None:
            return
        try:
            self._notifier.notify("\n".join(assignments))
        except OSError as error:
            self._broken(error)

    def _cannot(self, what: str, error: OSError) -> None:
        """Say so, the first time; have nothing to do with a service manager that is gone."""
        if isinstance(error, ConnectionError) or error.errno == errno.ENOTCONN:
            self._broken(error)
        elif what not in self._said:
            self._said.add(what)
            events.NOTIFY_BROKEN(reason=f"cannot {what}: {error.strerror or error}")

    def _broken(self, error: OSError) -> None:
        events.NOTIFY_BROKEN(reason=error)
        self.close()


def _extending(patience: float) -> list[str]:
    return [f"EXTEND_TIMEOUT_USEC={int(patience * 1_000_000)}"] if patience else []


def _storing(name: str) -> bytes:
    # FDPOLL=0: they are passed on whatever has become of the other end.
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
