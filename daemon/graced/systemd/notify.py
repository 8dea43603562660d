"""Messages to the service manager: sd_notify(3), over sdnotify.

Without ``NOTIFY_SOCKET`` nothing is sent.  Each message goes through a queue
(`graced.systemd.outbox`): a message that the service manager does not take is sent again later.
sdnotify makes the connection; it sends no descriptors, waits for room, and encodes as Latin-1.
"""

from __future__ import annotations

import math
import os
import select
import time
from collections.abc import MutableMapping, Sequence

from graced.log import events
from graced.systemd.outbox import Message, Outbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from graced.systemd.outbox import HasFileno

BARRIER_TIMEOUT = 5.0
"""Seconds in which the service manager has to read all messages before a barrier."""
CLOSE_TIMEOUT = 0.1
"""Seconds in which messages that wait at the end may still be sent."""
MAX_STATUS = 3000
"""Bytes of a status line; systemd ignores a message of more than 4096 bytes."""
MAX_DESCRIPTORS = 253
"""Descriptors in one message (SCM_MAX_FD)."""
_CONTROLS = dict.fromkeys((*range(0x20), 0x7F), " ")


class Notifier:
    """The line to the service manager.  Main thread only, but for `replace`."""

    def __init__(
        self, environ: MutableMapping[str, str] = os.environ, *, mute: bool = False
    ) -> None:
        """Takes ``WATCHDOG_*`` out of `environ`: the variables name a process before the fork.

        Opens the descriptor at once, so that it can be preserved over a fork; if `mute`, when it
        begins to `speak`.
        """
        self.watchdog = _watchdog(environ)
        """Seconds within which the watchdog has to be fed; 0: there is none."""
        address = environ.get("NOTIFY_SOCKET", "")
        self.managed = bool(address)
        """Whether a service manager has started us, even if it listens no more."""
        self._address = address
        self._wake: Callable[[], None] | None = None
        self._outbox: Outbox | None = None
        if not self.managed:
            self.watchdog = 0.0
        elif not mute:
            self.speak()

    def __bool__(self) -> bool:
        """Whether a service manager listens."""
        return self._outbox is not None and not self._outbox.broken

    def speak(self) -> None:
        """Say everything from now on: this is the main process.  Once, and after each `mute`."""
        self._outbox = Outbox(_connect, self._address)
        self._outbox.wake = self._wake

    def mute(self) -> None:
        """Say nothing from now on: another process is the main process.  What waits is dropped."""
        if self._outbox:
            self._outbox.close()
            self._outbox = None

    @property
    def due(self) -> float:
        """Monotonic time at which a message is to be sent again; `math.inf`: none waits."""
        return self._outbox.due if self._outbox else math.inf

    def on_failure(self, wake: Callable[[], None]) -> None:
        """Let `wake` be called, in any thread, when a message begins to wait."""
        self._wake = wake
        if self._outbox:
            self._outbox.wake = wake

    def send_again(self) -> None:
        """Send the messages that wait, if they are due.  Never blocks."""
        if self._outbox and time.monotonic() >= self._outbox.due:
            self._outbox.flush()

    def listens_again(self) -> bool:
        """Whether a service manager listens; asks once more where none did."""
        return self._outbox is not None and (bool(self) or self._outbox.try_again())

    def close(self) -> None:
        """Send what waits, within `CLOSE_TIMEOUT`, and nothing any more."""
        if self._outbox:
            if self:
                self._outbox.flush(CLOSE_TIMEOUT)
            self._outbox.close()

    def ready(self, status: str) -> None:
        """The start is complete (``READY=1``)."""
        self._send("READY", "READY=1", _status(status))

    def status(self, status: str, extend_by: float = 0.0) -> None:
        """Show a status line; `extend_by` is as in `stopping`, and 0 asks for no time."""
        self._send("STATUS", _status(status), *_extending(extend_by))

    def stopping(self, status: str, extend_by: float) -> None:
        """The stop has begun, and the next message comes within `extend_by` seconds."""
        self._send("STOPPING", "STOPPING=1", _status(status), *_extending(extend_by))

    def feed_watchdog(self) -> None:
        """The service works (``WATCHDOG=1``)."""
        self._send("WATCHDOG", "WATCHDOG=1")

    def main_pid(self, pid: int) -> None:
        """`pid` is the main process of the service from now on."""
        self._send("MAINPID", f"MAINPID={pid}")

    def store(
        self,
        name: str,
        files: Sequence[HasFileno],
        sent: Callable[[], None] | None = None,
        *,
        watch: bool = False,
    ) -> None:
        """Store descriptors for the next process of the service (``FDSTORE=1``).

        The files stay open until `sent` is called; a file that is closed before is left out.
        `watch`: the service manager removes a descriptor that hangs up.
        """
        if self._outbox:
            self._outbox.put(*_storing(name, files, sent, watch=watch))
        elif sent:
            sent()

    def stores(self, name: str) -> bool:
        """Whether all descriptors of that name so far have been sent."""
        return self._outbox is None or not self._outbox.waits(_subject(name))

    def replace(self, lane: str, name: str, file: HasFileno, old: Sequence[str]) -> None:
        """Store a descriptor, then remove the descriptors of `old` names.  Any thread may call.

        Instead of what waits in the lane.  The file stays open until another replaces it.
        """
        if self._outbox:
            messages = (*_storing(name, [file], None), *map(_forgetting, old))
            for message in messages:
                message.lane = lane
            self._outbox.replace(lane, *messages)

    def forget(self, name: str, lane: str = "") -> None:
        """Remove the descriptors of that name from the store; `lane`: of `replace`."""
        if self._outbox:
            message = _forgetting(name)
            message.lane = lane or name
            self._outbox.replace(name, message)

    def will_forget(self, name: str) -> bool:
        """Whether the message waits that removes the name from the store."""
        return self._outbox is not None and self._outbox.waits(_forgetting(name).subject)

    def flush(self, timeout: float) -> bool:
        """Send what waits; return whether nothing does any more, after `timeout` s at most."""
        return self._outbox is None or self._outbox.flush(timeout)

    def barrier(self) -> None:
        """Return when the service manager has read all messages so far.

        Where that takes more than `BARRIER_TIMEOUT`, the log says so.
        """
        if self._outbox is None or not self:
            return
        until = time.monotonic() + BARRIER_TIMEOUT
        self._outbox.flush(BARRIER_TIMEOUT)
        try:
            read, write = map(_Pipe, os.pipe())
        except OSError as error:
            events.NOTIFY_LOST(reason=error.strerror)
            return
        try:
            message = Message("BARRIER=1", subject="BARRIER", files=[write], sent=write.close)
            self._outbox.put(message)
            self._outbox.flush(until - time.monotonic())
            # Withdrawn or sent: no copy of the other end is ours any more.
            unsent = self._outbox.withdraw("BARRIER")
            poll = select.poll()
            poll.register(read, 0)
            poll.poll(max(0.0, 1000 * (until - time.monotonic())))
            if self and (unsent or not poll.poll(0)) and time.monotonic() >= until:
                events.BARRIER_LATE(seconds=BARRIER_TIMEOUT)
        finally:
            read.close()

    def begin_barrier(self) -> int:
        """A descriptor that hangs up when the service manager has read all messages so far.

        The caller closes it.  Raises `OSError`.
        """
        read, write = os.pipe()
        end = _Pipe(write)
        if self._outbox:
            self._outbox.put(Message("BARRIER=1", subject="BARRIER", files=[end], sent=end.close))
        else:
            end.close()
        return read

    def name_no_main_process(self) -> None:
        """Withdraw the message that names another main process, if it still waits."""
        if self._outbox:
            self._outbox.withdraw("MAINPID")
            self._outbox.withdraw("BARRIER")

    def _send(self, subject: str, *assignments: str) -> None:
        if self._outbox:
            self._outbox.put(Message("\n".join(assignments), subject=subject))


class _Pipe:
    """One end of a pipe."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)
        self._fd = -1


def last_status(status: str) -> None:
    """Show a status line that outlives this process, which is about to fail.

    Without it ``systemctl status`` shows no line, or the last line of the process before.
    """
    notifier = Notifier()
    notifier.status(status)
    notifier.close()


def _connect() -> socket.socket:
    # Called in a start already, where there is a service manager to connect to.
    from sdnotify import SystemdNotifier  # noqa: PLC0415

    notifier = SystemdNotifier(debug=True)
    connected: socket.socket = notifier.socket
    return connected


def _status(status: str) -> str:
    # CR and LF would begin another assignment, and systemd ignores a whole message with NUL in it.
    data = f"STATUS={status.translate(_CONTROLS)}".encode("utf-8", "backslashreplace")
    return data[:MAX_STATUS].decode("utf-8", "ignore")


def _extending(seconds: float) -> list[str]:
    return [f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}"] if seconds else []


def _subject(name: str) -> str:
    return f"FDSTORE {name}"


def _storing(
    name: str, files: Sequence[HasFileno], sent: Callable[[], None] | None, *, watch: bool = False
) -> list[Message]:
    # FDPOLL=0: a descriptor stays in the store when its other end hangs up.
    text = f"FDSTORE=1\nFDNAME={name}" + "\nFDPOLL=0" * (not watch)
    batches = [files[at : at + MAX_DESCRIPTORS] for at in range(0, len(files), MAX_DESCRIPTORS)]
    return [
        Message(
            text,
            subject=_subject(name),
            lane=name,
            files=batch,
            sent=sent if batch is batches[-1] else None,
        )
        for batch in batches
    ]


def _forgetting(name: str) -> Message:
    text = f"FDSTOREREMOVE=1\nFDNAME={name}"
    return Message(text, subject=f"FDSTOREREMOVE {name}", lane=name)


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
