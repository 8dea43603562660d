"""Lines of a running process, read with a deadline instead of a guess."""

import os
import select
import subprocess
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rigging.errors import RigError


class LineStream:
    """Standard output of a process, line by line; leaving the context ends the process."""

    def __init__(
        self, process: subprocess.Popen[bytes], end: Callable[[subprocess.Popen[bytes]], None]
    ) -> None:
        if process.stdout is None:
            raise ValueError("the process needs a pipe on stdout")
        self._process = process
        self._end = end
        self._stdout = process.stdout
        self._poll = select.poll()
        self._poll.register(self._stdout, select.POLLIN)
        self._buffer = b""

    def line(self, deadline: float) -> str:
        """The next line, without its end. Raises RigError at the monotonic deadline or at EOF."""
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not self._poll.poll(left * 1000):
                raise RigError("no further line came in time")
            chunk = os.read(self._stdout.fileno(), 65536)
            if not chunk:
                raise RigError("the process closed its output")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace")

    def close(self) -> None:
        """End the process in the way that its device knows."""
        self._end(self._process)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
