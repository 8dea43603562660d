"""Into the background: an outer fork that waits, around python-daemon's detach.

The command that was typed returns when the daemon serves, or fails with the daemon's own exit
status and reason::

    command                                daemon
       │ fork ───────────────────────────────▶ │  python-daemon: fork, setsid, fork, redirect
       │ ◀──────────────────── "pid <number>"  │
       │  MAINPID= and BARRIER=1 to systemd    │
       │ "go" ────────────────────────────────▶│  starts to serve
       │                                       │  READY=1 and BARRIER=1 to systemd
       │ ◀────────── "ok", or "<status> <why>" │
       ▼ exits 0, or with the status           ▼

The handover of the main pid is the parent's to make, because systemd with `NotifyAccess=main`
believes only it; the barriers make sure that systemd has read each message while its sender is
still there.  A daemon that dies closes its end, which the parent takes for a failure; after a
failure that was said the parent waits for that end, so that nothing is left of the daemon when the
command returns.
"""

from __future__ import annotations

import atexit
import gc
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType

from graced import signals
from graced.errors import HANDED_OVER, GracedError, StartError
from graced.systemd.notify import Notifier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_LONGEST = 4096
LOOK_AGAIN = 0.001
"""Seconds between two looks for our parent, where we cannot wait for its end."""


HIGHEST_DESCRIPTOR = 65536
"""Where /proc is not mounted, descriptors from this number on are not found: 30 ms for them all."""


def open_descriptors() -> frozenset[int]:
    """The descriptors that this process has open."""
    candidates: Iterable[int]
    try:
        candidates = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        candidates = range(
            HIGHEST_DESCRIPTOR
            if limit == resource.RLIM_INFINITY
            else min(limit, HIGHEST_DESCRIPTOR)
        )
    return frozenset(fd for fd in candidates if _is_open(fd))


def _is_open(fd: int) -> bool:
    """Whether it still is: the listing was read through one of its own."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


class Parent:
    """The daemon's line to the command that was typed."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line

    def __enter__(self) -> Parent:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Let the command that still waits fail as we do."""
        if error and self._line.fileno() >= 0:
            self.failed(error)

    def serving(self) -> None:
        """Let the command return with 0."""
        self._send_farewell(b"ok")
        self._line.close()

    def failed(self, error: BaseException) -> None:
        """Let the command fail as we do."""
        status = error.status if isinstance(error, GracedError) else 1
        reason = str(error) if isinstance(error, GracedError) else repr(error)
        self._send_farewell(f"{status} {reason}".encode("utf-8", "backslashreplace")[:_LONGEST])

    def _send_farewell(self, message: bytes) -> None:
        try:
            self._line.send(message)
        except OSError:
            # The command was killed while it waited; the daemon goes on.
            return

    def hand_over(self) -> None:
        """Tell our pid and wait until the service manager knows it."""
        self._line.send(f"pid {os.getpid()}".encode())
        if self._line.recv(_LONGEST) != b"go":
            raise StartError("the command that started the daemon is gone", 1)


def daemonize(notifier: Notifier, preserve: Iterable[int], *, keep_stderr: bool) -> Parent | None:
    """Fork.  In the daemon, return its parent.

    In the parent, return None when the daemon serves, or raise `StartError`.
    """
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        raise StartError(f"cannot become a daemon: {error}", 1) from None
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        child = os.fork()
    except OSError as error:
        raise StartError(f"cannot fork: {error.strerror}", 1) from None
    if child:
        theirs.close()
        _wait(ours, child, notifier)
        return None
    ours.close()
    parent = Parent(theirs)
    try:
        _detach([*preserve, theirs.fileno()], keep_stderr=keep_stderr)
        _forget_python_daemon()
        _wait_for_adoption()
        parent.hand_over()
    except OSError as error:
        parent.failed(StartError(f"cannot become a daemon: {error}", 1))
        os._exit(1)
    except BaseException as error:
        parent.failed(error)
        os._exit(1)
    return parent


def _detach(preserve: list[int], *, keep_stderr: bool) -> None:
    # python-daemon 2.3.2 makes a set of all descriptors that there could ever be.
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    from daemon import DaemonContext  # type: ignore[attr-defined]  # noqa: PLC0415

    umask = os.umask(0o077)
    os.umask(umask)
    context = DaemonContext(
        # python-daemon would not fork under systemd, and has a mind of its own on the rest too.
        detach_process=True,
        signal_map={},
        umask=umask | 0o022,
        files_preserve=preserve,
        prevent_core=False,
        stderr=sys.stderr if keep_stderr else None,
    )
    context.open()
    atexit.unregister(context.close)


def _forget_python_daemon() -> None:
    """Give back the memory of what has done its work.

    2.3.2 (Debian 12) keeps a set of all descriptors that there could be.
    """
    for name in [name for name in sys.modules if name.partition(".")[0] == "daemon"]:
        del sys.modules[name]
    gc.collect()


def _wait_for_adoption() -> None:
    """Return when PID 1, or a subreaper, is our parent (prctl(2), PR_SET_CHILD_SUBREAPER).

    Until then our parent is the session leader, which python-daemon forks us from and which ends
    right after.  A service manager that hears of us before says that we are not its child.
    """
    leader = os.getsid(0)
    while os.getppid() == leader:
        _wait_for_end(leader)


def _wait_for_end(pid: int) -> None:
    """Return when the process has ended, or after `LOOK_AGAIN` where the kernel does not say so.

    pidfd_open(2) fails where the process has been reaped a moment ago: with ESRCH, or with EINVAL
    on kernels up to 6.12 at least, where the number is still that of a session.  It fails with
    ENOSYS or EPERM where a container forbids the call.
    """
    try:
        process = os.pidfd_open(pid)
    except OSError:
        time.sleep(LOOK_AGAIN)
        return
    try:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        poll.poll()
    finally:
        os.close(process)


def _wait(line: socket.socket, child: int, notifier: Notifier) -> None:
    """The parent's side of the handover.  Raises `StartError` where the daemon does not serve."""
    pid = 0
    received: list[signal.Signals] = []
    with signals.SignalInbox() as inbox, line:
        poll = select.poll()
        poll.register(line, select.POLLIN)
        poll.register(inbox, select.POLLIN)
        while True:
            # Whoever stops the start stops the daemon; it says how that went.
            received += inbox.take()
            while pid and received:
                _send(pid, received.pop(0))
            poll.poll()
            try:
                message = line.recv(_LONGEST, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            except ConnectionError:
                message = b""
            word, _, rest = message.decode("utf-8", "replace").partition(" ")
            if word == "pid":
                pid = int(rest)
                # The kernel has reaped it where our caller ignores SIGCHLD, and so do we.
                with suppress(ChildProcessError):
                    os.waitpid(child, 0)
                notifier.main_pid(pid)
                notifier.barrier()
                received += inbox.take()
                if notifier and signals.HANDOVER in received:
                    _call_off(line)
                line.send(b"go")
            elif word == "ok":
                return
            elif word:
                line.recv(_LONGEST)
                raise StartError(rest, int(word))
            else:
                raise StartError("the daemon died before it served", 1)


def _call_off(line: socket.socket) -> NoReturn:
    """End a start that is to be started anew, and wait until the daemon is gone.

    The service manager sent the signal to us and not to the daemon: while it stops a service it
    learns of no other main process, and hears nothing from one.
    """
    line.shutdown(socket.SHUT_WR)
    while line.recv(_LONGEST):
        pass
    raise StartError("restarted before it served", HANDED_OVER)


def _send(pid: int, signum: signal.Signals) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        # Its end of the line closes too, and that is where it is noticed.
        return
