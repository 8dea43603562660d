"""A child process that runs the installed program, while clients are served.

For the preflight of a handover (`graced.app.preflight`), and for the new process of a reload
(`graced.app.new_process`).  What the child prints is kept: the last line says why it has failed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress

from graced.app.launch import working_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

TIMEOUT = 60.0
"""Seconds after which a child that waits counts as refused.  A child that runs, or would if there
were a processor for it, gets as many again: clients are served meanwhile, and may leave it little
of a slow one."""
PROCESSOR_TIMEOUT = 60.0
"""Seconds that a child may use of the processor."""
_LEAST_SHARE = 1 / 60
"""Of the time.  A child that waits for something in a loop runs, and wants to run, for less."""
_FOR_THE_FIRST_PROCESS = {
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "JOURNAL_STREAM",
}
"""Variables of the service manager that no child may believe."""
_OURS = "graced: "
"""The beginning of the line that says why a start is refused."""
_LONGEST_OUTPUT = 65536
_LONGEST_REASON = 500
_IN_DIRECTORY = "import os, sys; os.chdir(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"
"""posix_spawn(3) in Python cannot change the directory, and a daemon is in / by now."""


class Child:
    """A running child, killed and reaped at the end of the context.  Main thread only."""

    def __init__(
        self,
        command: list[str],
        environment: Mapping[str, str],
        directory: str,
        *,
        name: str,
        gets: tuple[int, int] | None = None,
    ) -> None:
        """Start the child.  `environment`: without the variables of the service manager.

        `name`: of the child, for its `reason`.  `gets`: a descriptor, and its number in the child.
        Uses only modules that are loaded already: the files of an upgraded Python may be gone.
        Raises `OSError`.
        """
        self._name = name
        if directory != working_directory():
            command = [sys.executable, "-I", "-c", _IN_DIRECTORY, directory, *command]
        self._status: int | None = None
        self._wanted = 0.0
        self._ended = -1
        self._output = os.memfd_create("graced-child", os.MFD_CLOEXEC)
        # Where SIGCHLD is ignored, by our caller or by a handler, the kernel reaps the child and
        # nobody learns its status.
        self._on_child_end = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            self._pid = os.posix_spawn(
                command[0],
                command,
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, self._output, 1),
                    (os.POSIX_SPAWN_DUP2, self._output, 2),
                    # Last: its number in the child may be that of the output here.
                    *([(os.POSIX_SPAWN_DUP2, *gets)] if gets else []),
                ],
                # A group, to be killed together with what a handler starts at its import.
                setpgroup=0,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        except BaseException:
            self._restore()
            raise
        with suppress(OSError):
            # A container may forbid it; the caller then looks from time to time.
            self._ended = os.pidfd_open(self._pid)

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        # Before it is reaped: its number is its own until then.
        with suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        self._reap()

    def _reap(self) -> None:
        """Let go of a child that has ended, or was killed."""
        # A handler that waits for any child may have reaped it.
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        self._restore()

    def _restore(self) -> None:
        if self._ended >= 0:
            os.close(self._ended)
        os.close(self._output)
        signal.signal(signal.SIGCHLD, self._on_child_end)

    def fileno(self) -> int:
        """The descriptor that is readable when the child has ended; -1: there is none."""
        return self._ended

    @property
    def running(self) -> bool:
        """Whether the child has not ended yet."""
        ended = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended:
            killed = ended.si_code != os.CLD_EXITED
            self._status = -ended.si_status if killed else ended.si_status
        return ended is None

    def advances(self) -> bool:
        """Whether to wait for the child for another `TIMEOUT`; to be called after each."""
        # clock_getcpuclockid(3), which Python does not have for processes.
        used = time.clock_gettime(~self._pid << 3 | 2)
        wanted = used + self._waited_for_processor()
        wanted_before, self._wanted = self._wanted, wanted
        return used < PROCESSOR_TIMEOUT and wanted - wanted_before >= _LEAST_SHARE * TIMEOUT

    def _waited_for_processor(self) -> float:
        """Seconds in which the main thread of the child could have run, and others did."""
        try:
            with open(f"/proc/{self._pid}/schedstat", encoding="ascii") as file:
                return int(file.read().split()[1]) / 1e9
        except (OSError, IndexError):
            # A kernel without CONFIG_SCHED_INFO; Debian's have it.
            return 0.0

    @property
    def reason(self) -> str:
        """The reason to refuse the next start; empty: none.

        Only of a child that has ended, or whose daemon has.
        """
        if self._status == 0:
            return ""
        begin = max(0, os.fstat(self._output).st_size - _LONGEST_OUTPUT)
        text = os.pread(self._output, _LONGEST_OUTPUT, begin).decode("utf-8", "replace")
        lines = [line for line in text.splitlines() if line.strip()]
        # What a handler prints at its import may come later: its buffer is flushed at the end.
        said = [line for line in lines if line.startswith(_OURS)] or lines
        if said:
            return said[-1].removeprefix(_OURS)[:_LONGEST_REASON]
        if self._status is None:
            # Of a new process (`graced.app.new_process`) that ended before the command did.
            return ""
        if self._status < 0:
            return f"{self._name} was killed by signal {-self._status}"
        return f"{self._name} ended with status {self._status}"


def without_service_manager(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which a child believes no variable that was meant for its parent."""
    return {
        name: value for name, value in environment.items() if name not in _FOR_THE_FIRST_PROCESS
    }
