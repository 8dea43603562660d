"""Faults of system calls, made by strace(1)."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGINT, SIGKILL
from types import TracebackType
from typing import Any, NamedTuple

from support import COMMAND, PATIENCE, Daemon, Graced, Log, environment
from support.process import LEFT_TO_THE_KERNEL

STRACE = "strace"


class Fault(NamedTuple):
    """What happens to which call."""

    call: str
    what: str
    """As strace wants it: ``error=ENOMEM``, ``signal=SIGINT``, ``delay_enter=1000000``."""
    when: str = "1+"
    """Which calls of each thread, from its start or from the attaching on."""
    path: str = ""
    """Nothing but calls on this file."""

    def __str__(self) -> str:
        return f"{self.call}-{self.what.removeprefix('error=')}"

    @property
    def options(self) -> list[str]:
        """For the command line."""
        found = [
            "-e",
            f"trace={self.call}",
            "-e",
            f"inject={self.call}:{self.what}:when={self.when}",
        ]
        return [*found, "-P", self.path] if self.path else found


class Trace:
    """What strace has written."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="graced-")
        self.path = Path(self._directory.name) / "trace"

    @property
    def hits(self) -> list[str]:
        """The calls that the fault has happened to."""
        marks = ("(INJECTED)", "(DELAYED)")
        return [line for line in self.path.read_text().splitlines() if line.endswith(marks)]

    def close(self) -> None:
        self._directory.cleanup()


class Injection:
    """A fault of a process that runs, as a context manager: attached, then detached."""

    def __init__(self, pid: int, fault: Fault) -> None:
        self._trace = Trace()
        self._command = [
            *(STRACE, "-f", "-o", str(self._trace.path), "-p", str(pid)),
            *fault.options,
        ]

    def __enter__(self) -> Injection:
        read, write = os.pipe()
        try:
            self._process = subprocess.Popen(self._command, stderr=write)
        finally:
            os.close(write)
        self._log = Log.of_pipe(read)
        self._log.wait_for("attached")
        return self

    @property
    def hits(self) -> list[str]:
        """The calls that the fault has happened to so far."""
        return self._trace.hits

    def __exit__(
        self,
        _type: type[BaseException] | None,
        failure: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        # It may have ended with what it traced.
        self._process.send_signal(SIGINT)
        self._process.wait(PATIENCE)
        self._log.close()
        hits = self.hits
        self._trace.close()
        if failure is None:
            assert hits, f"{' '.join(self._command)}: the fault never happened"


class Traced(Graced):
    """A graced with a fault from its first instruction on."""

    def __init__(self, fault: Fault, *options: str, **more: Any) -> None:
        super().__init__(*options, **more)
        self._trace = Trace()
        self._belongings.callback(self._trace.close)
        self.command = [STRACE, "-f", "-o", str(self._trace.path), *fault.options, *self.command]

    @property
    def hits(self) -> list[str]:
        """The calls that the fault has happened to so far."""
        return self._trace.hits

    def _start(self) -> None:
        super()._start()
        self.pid = 0

    def serving(self) -> None:
        """To be called before a signal is sent: the process that was started is strace."""
        self.pid = int(self.log.wait_for(r"serving on (.*) with pid (\d+)$")[2])

    def _end(self) -> None:
        if self.process.poll() is None and self.pid:
            os.kill(self.pid, SIGKILL)
        super()._end()


class TracedDaemon(Daemon):
    """A forked graced under strace from its first instruction on; strace is a grandchild of it."""

    def __init__(self, *options: str, **more: Any) -> None:
        super().__init__(*options, **more)
        self.calls: list[str] = []
        """The lines of the trace, when it has ended."""
        self._trace = Trace()
        self._belongings.callback(self._trace.close)
        tracer = [STRACE, "-D", "-f", "-o", str(self._trace.path)]
        self.command = [*tracer, *self.command]

    def wait(self, within: float = PATIENCE) -> int:
        status = super().wait(within)
        trace = Log.of_file(self._trace.path)
        try:
            trace.wait_for(rf"^{self.pid} +\+\+\+ ")
        finally:
            trace.close()
        self.calls = trace.lines
        return status


def run_traced(
    fault: Fault,
    *options: str,
    env: Mapping[str, str] | None = None,
    command: Sequence[str] = COMMAND,
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """A graced that is expected to end by itself, and the calls that the fault happened to."""
    trace = Trace()
    try:
        with subprocess.Popen(
            [STRACE, "-f", "-o", str(trace.path), *fault.options, *command, *options],
            # A start that fails leaves it to the kernel to close what it had opened.
            env=environment({**LEFT_TO_THE_KERNEL, **(env or {})}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                # Who kills nobody but strace sets free what it traces.
                os.killpg(process.pid, SIGKILL)
                raise
        return subprocess.CompletedProcess(options, process.returncode, out, err), trace.hits
    finally:
        trace.close()


FORKS = "clone,clone3,fork,vfork"
