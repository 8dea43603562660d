"""Signals as messages: a signal handler only enqueues, and the main thread reads the queue.

The C-level handler of CPython writes the number of a signal to a pipe (`signal.set_wakeup_fd`), in
the order of delivery, in whichever thread the kernel has chosen.  The Python-level handler does
nothing, so a signal interrupts no Python code half done.

A signal that the caller of the program ignores stays ignored, as nohup(1) and a shell without job
control (``program &``: SIGINT and SIGQUIT) ask for.  A caller that is a service manager asks for
nothing of the kind: `expect_service_manager`.

Blocking the signals and waiting with sigtimedwait(2) would be simpler.  But a program that a
handler starts would inherit the mask, and would ignore SIGTERM.
"""

from __future__ import annotations

import os
import signal
from threading import Lock
from types import FrameType, TracebackType

from graced.errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

STOP = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
"""Signals that begin the drain."""
IMPATIENT = (signal.SIGINT, signal.SIGQUIT)
"""Signals that end the grace period when they arrive during the drain."""
STATUS = signal.SIGUSR1
"""Log the status."""
HANDOVER = signal.SIGUSR2
"""Stop, and hand the clients over to the next start (`RestartKillSignal=` of the unit)."""
NUDGE = signal.SIGURG
"""Sent to a handler's thread, to interrupt the read that the thread waits in; else ignored."""
END = (*STOP, HANDOVER)
"""Signals that end serving."""
WATCHED = (*END, STATUS)
"""All signals that graced acts on."""


def _do_nothing(_signum: int, _frame: FrameType | None) -> None:
    """A handler that only replaces the default action."""


def expect_service_manager(environ: Mapping[str, str], pid: int) -> None:
    """Take no notice of signals that our caller ignores, where that is a service manager.

    A service manager stops its services with signals, and may have been started by nohup(1).
    `pid`: of the process that the service manager has started, if any has.  Main thread only,
    before the first `SignalInbox`, with the signals blocked.
    """
    # A terminal passes on $INVOCATION_ID of its own service; systemd 248 and newer say whose it is.
    started = environ.get("INVOCATION_ID") and environ.get("SYSTEMD_EXEC_PID", str(pid)) == str(pid)
    if environ.get("NOTIFY_SOCKET") or started:
        for signum in WATCHED:
            if signal.getsignal(signum) is signal.SIG_IGN:
                signal.signal(signum, signal.SIG_DFL)


class SignalInbox:
    """The queue of signals that have arrived.  A context manager.  Main thread only, except `put`.

    On entry the watched signals are caught, unless they are ignored, and unblocked
    (`graced.__main__` has blocked the signals until then).  On exit the handlers, the signal mask
    and the wake-up descriptor of before are restored.
    """

    def __init__(
        self,
        watched: Sequence[signal.Signals] = WATCHED,
        interrupting: Sequence[signal.Signals] = (NUDGE,),
    ) -> None:
        """`watched`: the signals to catch; `interrupting`: those that only interrupt a system call.

        Other signals keep their handlers.  Raises `StartError` where the system has no pipe for us.
        """
        self._watched = watched
        self._interrupting = interrupting
        self._lock = Lock()
        self._closed = False
        self._behind: list[signal.Signals] = []
        try:
            self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise StartError(f"cannot catch signals, pipe(2): {error.strerror}") from None

    def __enter__(self) -> SignalInbox:
        """Catch the signals.  Raises `ValueError` outside of the main thread."""
        try:
            self._wakeup_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        except ValueError:
            self._close()
            raise
        watched = [each for each in self._watched if signal.getsignal(each) is not signal.SIG_IGN]
        self._handlers: dict[signal.Signals, Any] = {
            signum: signal.signal(signum, _do_nothing) for signum in (*watched, *self._interrupting)
        }
        self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, self._watched)
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for signum, handler in self._handlers.items():
            # A signal that was blocked on entry keeps the handler of this class: other threads do
            # not block the signal, and the default action would kill the process before its end.
            if signum not in self._mask:
                signal.signal(signum, handler)
        signal.set_wakeup_fd(self._wakeup_fd)
        self._close()

    def _close(self) -> None:
        with self._lock:
            self._closed = True
            os.close(self._read)
            os.close(self._write)

    def put(self, signum: signal.Signals) -> None:
        """Put a signal into the queue that nobody has sent, unless the inbox is closed.

        Any thread may call, also where the program ignores the signal.
        """
        with self._lock:
            if self._closed:
                return
            try:
                os.write(self._write, bytes([signum]))
            except BlockingIOError:  # the pipe is full of signals that are not read yet
                self._behind.append(signum)

    def fileno(self) -> int:
        """The descriptor that is readable while a signal is in the queue."""
        return self._read

    def take(self) -> list[signal.Signals]:
        """Empty the queue and return its signals, oldest first.  Never blocks."""
        try:
            numbers = os.read(self._read, 4096)
        except BlockingIOError:
            return []
        with self._lock:
            behind, self._behind = self._behind, []
        # CPython writes the number of every signal that has a Python-level handler.
        signals = [signal.Signals(number) for number in numbers if number in self._watched]
        return signals + behind
