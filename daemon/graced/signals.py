"""Signals as messages: the handlers do nothing, the main thread reads what came.

CPython's C-level handler writes the signal's number to a pipe (`signal.set_wakeup_fd`), in the
order of delivery and from whichever thread the kernel picked; no Python code runs in between, so
nothing can be interrupted half done.  Blocking the signals instead (sigtimedwait) would be
simpler still, but a subprocess that somebody's handler starts would inherit the mask and be deaf
to SIGTERM.
"""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType

from graced.errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STOP = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
IMPATIENT = (signal.SIGINT, signal.SIGQUIT)
"""Those that end the grace period when they come during the drain."""
STATUS = signal.SIGUSR1
HANDOVER = signal.SIGUSR2
"""Stop, but leave the clients to the next start (`RestartKillSignal=` of the unit)."""
NUDGE = signal.SIGURG
"""Sent to a thread of ours, so that the system call it waits in looks again; ignored otherwise."""
END = (*STOP, HANDOVER)
WATCHED = (*END, STATUS)


def _leave_it_to_the_inbox(_signum: int, _frame: FrameType | None) -> None:
    """A handler has to exist, or the default action would be taken."""


class SignalInbox:
    """The signals that arrived, in order.  Main thread only.

    A context manager: it catches the watched signals, also those that `graced.__main__` has
    blocked until now, and restores on exit the mask and the handlers it found.
    """

    def __init__(self) -> None:
        """Raises `StartError`."""
        try:
            self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise StartError(f"cannot catch signals, pipe(2): {error.strerror}") from None

    def __enter__(self) -> SignalInbox:
        self._wakeup_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._handlers: dict[signal.Signals, Any] = {
            signum: signal.signal(signum, _leave_it_to_the_inbox) for signum in (*WATCHED, NUDGE)
        }
        self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for signum, handler in self._handlers.items():
            # What was held before we came is to be held for good: a thread that still runs does
            # not block it, and the default action would kill us a moment before the end.
            if signum not in self._mask:
                signal.signal(signum, handler)
        signal.set_wakeup_fd(self._wakeup_fd)
        os.close(self._read)
        os.close(self._write)

    def fileno(self) -> int:
        """The descriptor that is readable when a signal has arrived."""
        return self._read

    def take(self) -> list[signal.Signals]:
        """The signals since the last call, oldest first.  Never blocks."""
        try:
            numbers = os.read(self._read, 4096)
        except BlockingIOError:
            return []
        # A handler of somebody's own may share the wake-up descriptor; what it caught is not ours.
        return [signal.Signals(number) for number in numbers if number in WATCHED]
