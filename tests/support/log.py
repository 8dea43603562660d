"""What a program writes, read by a thread as it comes, and waited for."""

from __future__ import annotations

import ctypes
import os
import re
import select
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

PATIENCE = 60.0
"""Seconds that nothing takes, however busy the machine is."""
MACHINE = 1.0
"""Seconds that a busy machine may take longer for what the server does in a moment."""
MOMENT = 0.5
"""Seconds after the deadline in which the server is gone, as promised."""

SOME = 30
"""Lines at the beginning and at the end of a log that are shown."""

_IN_MODIFY = 0x2


class Log:
    """Lines, in the order in which they came."""

    def __init__(self, chunks: Iterator[bytes], stop: Callable[[], None] | None = None) -> None:
        """`chunks` is consumed by a thread; `stop`, if given, makes it end."""
        self._lines: list[str] = []
        self._ended = False
        self._news = threading.Condition()
        self._stop = stop
        self._thread = threading.Thread(target=self._read, args=(chunks,), name="test log")
        self._thread.start()

    @classmethod
    def of_pipe(cls, fd: int) -> Log:
        """Of a pipe or terminal, whose descriptor is taken over, to its end."""
        return cls(_pipe(fd))

    @classmethod
    def of_file(cls, path: Path) -> Log:
        """Of a file that grows, until `close`."""
        stopped, stop = os.pipe()
        return cls(_growing(path, stopped), lambda: os.close(stop))

    def _read(self, chunks: Iterator[bytes]) -> None:
        rest = b""
        for chunk in chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            with self._news:
                self._lines += [line.decode("utf-8", "backslashreplace") for line in lines]
                self._news.notify_all()
        with self._news:
            if rest:
                self._lines.append(rest.decode("utf-8", "backslashreplace"))
            self._ended = True
            self._news.notify_all()

    def close(self) -> None:
        """Wait for the end: of the program, or of what a file has at this moment."""
        if self._stop:
            self._stop()
            self._stop = None
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), f"somebody still has the log open:\n{self}"

    @property
    def lines(self) -> list[str]:
        """Those that have come so far."""
        with self._news:
            return list(self._lines)

    def __str__(self) -> str:
        """Readable for a person who looks for the fault."""
        lines = self.lines
        if len(lines) > 2 * SOME:
            lines = [*lines[:SOME], f"[... {len(lines) - 2 * SOME} lines ...]", *lines[-SOME:]]
        return "\n".join(line[:300] for line in lines)

    def matches(self, pattern: str) -> list[re.Match[str]]:
        """Of the lines that have come so far; `pattern` is searched in each."""
        return [match for line in self.lines if (match := re.search(pattern, line))]

    def count(self, pattern: str) -> int:
        """How many lines that have come so far have `pattern`."""
        return len(self.matches(pattern))

    def wait_for(self, pattern: str, count: int = 1, *, within: float = PATIENCE) -> re.Match[str]:
        """Wait until `pattern` is in so many lines, and return the match of the last of these."""
        with self._news:
            self._news.wait_for(
                lambda: self._ended or len(self._matches(pattern)) >= count, timeout=within
            )
            found = self._matches(pattern)
        why = "ended" if self._ended else f"{within:g} s passed"
        assert len(found) >= count, f"{why} with {len(found)} of {count} {pattern!r}:\n{self}"
        return found[count - 1]

    def _matches(self, pattern: str) -> list[re.Match[str]]:
        return [match for line in self._lines if (match := re.search(pattern, line))]


def _pipe(fd: int) -> Iterator[bytes]:
    try:
        while chunk := os.read(fd, 65536):
            yield chunk
    except OSError:
        # A terminal whose other end is closed gives EIO instead of an end.
        return
    finally:
        os.close(fd)


def _growing(path: Path, stopped: int) -> Iterator[bytes]:
    libc = ctypes.CDLL(None, use_errno=True)
    changes = libc.inotify_init1(os.O_CLOEXEC)
    assert changes >= 0, os.strerror(ctypes.get_errno())
    try:
        with path.open("rb") as file:
            watch = libc.inotify_add_watch(changes, os.fsencode(path), _IN_MODIFY)
            assert watch >= 0, os.strerror(ctypes.get_errno())
            poll = select.poll()
            poll.register(changes, select.POLLIN)
            poll.register(stopped, select.POLLIN)
            ending = False
            while not ending:
                yield file.read()
                ready = [fd for fd, _ in poll.poll()]
                if changes in ready:
                    os.read(changes, 65536)
                ending = stopped in ready
            yield file.read()
    finally:
        os.close(changes)
        os.close(stopped)
