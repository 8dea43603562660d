"""Into the background: an outer fork that waits, around python-daemon's detach.

The command that an administrator typed returns when the daemon serves, or fails with the exit
status and the reason of the daemon::

    command                                daemon
       │ fork ───────────────────────────────▶ │  python-daemon: fork, setsid, fork, redirect
       │ ◀──────────────────── "pid <number>"  │
       │  MAINPID= and BARRIER=1 to systemd    │
       │ "go" ────────────────────────────────▶│  starts to serve
       │                                       │  READY=1 and BARRIER=1 to systemd
       │ ◀────────── "ok", or "<status> <why>" │
       ▼ exits 0, or with the status           ▼

The command and not the daemon sends MAINPID=, because systemd with `NotifyAccess=main` accepts
messages from the main process only.  The barriers make sure that systemd has read each message
while the sender of the message still exists.  The two processes talk through a pair of sockets, the
line.  When the daemon dies the kernel closes its end of the line, and the command fails.  After
the daemon has reported a failure the command waits for that end too, so that no process of the
daemon is left when the command returns.
"""

from __future__ import annotations

import atexit
import gc
import io
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
from graced.log.standard_streams import connect_to_journal
from graced.systemd.notify import Notifier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_MAX_MESSAGE = 4096
"""Bytes of a message on the line."""
ADOPTION_POLL_INTERVAL = 0.001
"""Seconds between two looks at the parent pid, where the kernel cannot report the parent's end."""


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
    """Whether the descriptor is open: the descriptor of the listing itself is closed by now."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


class Parent:
    """The daemon's end of the line to the command.  A context manager.  Main thread only."""

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
        """Let the command fail with the same status and reason, where the command still waits."""
        if error and self._line.fileno() >= 0:
            self.failed(error)

    def serving(self) -> None:
        """Let the command return with status 0."""
        self._send(b"ok")
        self._line.close()

    def failed(self, error: BaseException) -> None:
        """Let the command fail with the exit status and the text of `error`."""
        status = error.status if isinstance(error, GracedError) else 1
        reason = str(error) if isinstance(error, GracedError) else repr(error)
        told = self._send(f"{status} {reason}".encode("utf-8", "backslashreplace")[:_MAX_MESSAGE])
        if isinstance(error, GracedError):
            error.explained = told

    def _send(self, message: bytes) -> bool:
        try:
            self._line.send(message)
        except OSError:
            # The command was killed while waiting; the daemon goes on.
            return False
        return True

    def become_main(self) -> None:
        """Report the pid of the daemon, and wait until the service manager knows the pid.

        Raises `StartError` where the command is gone, `OSError` where the line is broken.
        """
        self._line.send(f"pid {os.getpid()}".encode())
        if self._line.recv(_MAX_MESSAGE) != b"go":
            raise StartError("the command that started the daemon is gone", 1)


def daemonize(notifier: Notifier, preserve: Iterable[int], *, keep_stderr: bool) -> Parent | None:
    """Fork.  Main thread only, before other threads are started.

    In the daemon, return the line to the command.  In the command, return None when the daemon
    serves, or raise `StartError` with the status and the reason of the daemon.

    `preserve`: descriptors that the daemon keeps open.  `keep_stderr`: whether stderr is one of
    them; otherwise stderr leads to the journal, or to /dev/null without a journal, like stdin.
    stdout goes where stderr goes.
    """
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        raise StartError(f"cannot become a daemon: {error}", 1) from None
    for stream in (sys.stdout, sys.stderr):
        # There is none where the caller has closed the descriptor.  What cannot be written now
        # (a full disk) fails again at the end of the command, which then says so by its status.
        if stream:
            with suppress(OSError):
                stream.flush()
    try:
        child = os.fork()
    except OSError as error:
        ours.close()
        theirs.close()
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
        parent.become_main()
    except OSError as error:
        parent.failed(StartError(f"cannot become a daemon: {error}", 1))
        os._exit(1)
    except BaseException as error:
        parent.failed(error)
        os._exit(1)
    return parent


def _detach(preserve: list[int], *, keep_stderr: bool) -> None:
    # python-daemon 2.3.2 makes a set of all numbers below the hard limit of descriptors.
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    from daemon import DaemonContext  # type: ignore[attr-defined]  # noqa: PLC0415

    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # Closed by the caller.  python-daemon needs the object, with the descriptor that
            # `graced.log.sinks.open_standard_streams` has opened.
            setattr(sys, name, io.FileIO(fd, "r+", closefd=False))
    umask = os.umask(0o077)
    os.umask(umask)
    context = DaemonContext(
        # python-daemon does not fork when its parent is PID 1, unless told to.
        detach_process=True,
        signal_map={},
        umask=umask | 0o022,
        files_preserve=preserve,
        prevent_core=False,
        stdout=sys.stderr if keep_stderr else None,
        stderr=sys.stderr if keep_stderr else None,
    )
    context.open()
    if not keep_stderr:
        connect_to_journal()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What a handler prints is to be seen at once, as on a terminal.
        sys.stdout.reconfigure(line_buffering=True)
    atexit.unregister(context.close)


def _forget_python_daemon() -> None:
    """Free the memory of the python-daemon modules.

    Version 2.3.2 (Debian 12) keeps a set of all numbers below the limit of descriptors.
    """
    for name in [name for name in sys.modules if name.partition(".")[0] == "daemon"]:
        del sys.modules[name]
    gc.collect()


def _wait_for_adoption() -> None:
    """Return when the parent is PID 1 or a subreaper (prctl(2), PR_SET_CHILD_SUBREAPER).

    Until then the parent is the session leader, from which python-daemon has forked this process,
    and which ends right after the fork.  A service manager that gets our pid earlier logs that the
    process is not its child.
    """
    leader = os.getsid(0)
    while os.getppid() == leader:
        _wait_for_end(leader)


def _wait_for_end(pid: int) -> None:
    """Return when the process has ended, or after `ADOPTION_POLL_INTERVAL`.

    The latter where pidfd_open(2) fails.  The call fails for a process that was reaped a moment
    ago: with ESRCH, or, while the number is still that of a session, with EINVAL (kernels up to
    6.12 at least).  The call fails with ENOSYS or EPERM where a container forbids the call.
    """
    try:
        process = os.pidfd_open(pid)
    except OSError:
        time.sleep(ADOPTION_POLL_INTERVAL)
        return
    try:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        poll.poll()
    finally:
        os.close(process)


def _wait(line: socket.socket, child: int, notifier: Notifier) -> None:
    """Wait in the command until the daemon serves.

    `line`: the command's end of the line; `child`: the first of the two processes that
    python-daemon forks from.  Raises `StartError` where the daemon does not serve.
    """
    pid = 0
    received: list[signal.Signals] = []
    with signals.SignalInbox() as inbox, line:
        poll = select.poll()
        poll.register(line, select.POLLIN)
        poll.register(inbox, select.POLLIN)
        while True:
            # A signal that is to stop the start stops the daemon, which reports the outcome.
            received += inbox.take()
            while pid and received:
                _send(pid, received.pop(0))
            poll.poll()
            try:
                message = line.recv(_MAX_MESSAGE, socket.MSG_DONTWAIT)
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
                # A daemon that has died by now has left the reason, or an end, to be read next.
                with suppress(BrokenPipeError, ConnectionResetError):
                    line.send(b"go")
            elif word == "ok":
                return
            elif word:
                line.recv(_MAX_MESSAGE)
                raise StartError(rest, int(word))
            else:
                raise StartError("the daemon died before it served", 1)


def _call_off(line: socket.socket) -> NoReturn:
    """Give up a start that SIGUSR2 has interrupted, and wait until the daemon is gone.

    The service manager has sent the signal to the command and not to the daemon: a service manager
    that stops a service accepts no new main process, and no message from one.
    """
    line.shutdown(socket.SHUT_WR)
    while line.recv(_MAX_MESSAGE):
        pass
    raise StartError("restarted before it served", HANDED_OVER)


def _send(pid: int, signum: signal.Signals) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        # The kernel closes the daemon's end of the line too, and `_wait` notices that.
        return
