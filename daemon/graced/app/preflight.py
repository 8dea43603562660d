"""The next start, tried out before the clients are let go.

A restart that is refused would lose every client: this process is gone by then.  So the daemon
first runs the installed program once more, as a child: the same command with ``--check-config``
before its other arguments, and so the same user, sandbox, interpreter and handler path as at the
next start.  The child finds faults that an upgrade or an edit has brought: in the configuration,
the modules, the handler, the limits and the addresses (`graced.app.check`).  Clients are served
meanwhile.

The child learns from `VARIABLE` in its environment that it is a preflight.  Name and format are
an interface between two versions of graced: words of the form ``name=value``, of which the child
ignores unknown names.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress

from graced.app.launch import working_directory
from graced.process import limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from graced.app.check import Subject
    from graced.app.launch import Launch

TIMEOUT = 60.0
"""Seconds after which a child that waits counts as refused.  A child that runs, or would if there
were a processor for it, gets as many again: clients are served meanwhile, and may leave it little
of a slow one."""
PROCESSOR_TIMEOUT = 60.0
"""Seconds that a child may use of the processor."""
_LEAST_SHARE = 1 / 60
"""Of the time.  A child that waits for something in a loop runs, and wants to run, for less."""
VARIABLE = "GRACED_PREFLIGHT"
OPTION = "--check-config"

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


class Preflight:
    """A running child, killed and reaped at the end of the context.  Main thread only."""

    def __init__(self, launch: Launch, *, gets_listeners: bool, goes_on: bool = False) -> None:
        """Start the child.  `gets_listeners`: the service manager passes listening sockets.

        `goes_on`: the next start goes on without an address or a pidfile that it cannot get.

        Uses only modules that are loaded already: the files of an upgraded Python may be gone.
        Raises `OSError`.
        """
        command = [*launch.program, OPTION, *launch.arguments]
        if launch.directory != working_directory():
            command = [sys.executable, "-I", "-c", _IN_DIRECTORY, launch.directory, *command]
        about = {
            "pid": os.getpid(),
            "descriptors": launch.descriptors,
            "gets_listeners": int(gets_listeners),
            "goes_on": int(goes_on),
        }
        environment = {
            name: value
            for name, value in launch.environment.items()
            if name not in _FOR_THE_FIRST_PROCESS
        }
        environment[VARIABLE] = " ".join(f"{name}={value}" for name, value in about.items())
        self._status: int | None = None
        self._wanted = 0.0
        self._ended = -1
        self._output = os.memfd_create("graced-preflight", os.MFD_CLOEXEC)
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

    def __enter__(self) -> Preflight:
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

        Only of a child that has ended.
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
        if self._status is not None and self._status < 0:
            return f"its check was killed by signal {-self._status}"
        return f"its check ended with status {self._status}"


def subject(environ: Mapping[str, str]) -> Subject | None:
    """The child's side of `Preflight`: the subject; None if this process is no preflight."""
    words = dict(word.partition("=")[::2] for word in environ.get(VARIABLE, "").split())
    if words.get("pid") != str(os.getppid()):
        return None
    # Not for the daemon, which imports this module as well.
    from graced.app import occupancy  # noqa: PLC0415
    from graced.app.check import Subject  # noqa: PLC0415

    # If memory gets short the check has to go, and not the daemon with its clients.
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
    ours = occupancy.sockets_of(os.getppid())
    return Subject(
        ours=ours,
        managed=True,
        knows_service=ours is not None,
        descriptors=int(words.get("descriptors", limits.hard_descriptors())),
        gets_listeners="the service manager" if words.get("gets_listeners") == "1" else "",
        goes_on=words.get("goes_on") == "1",
    )
