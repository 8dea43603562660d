"""A service manager that keeps file descriptors for the next start (FDSTORE, sd_notify(3))."""

from __future__ import annotations

import os
from fcntl import F_DUPFD_CLOEXEC, fcntl
from typing import Any

from support.notify import NotifySocket

PASS = """
import os
os.environ["LISTEN_PID"] = str(os.getpid())
for target, fd in enumerate(map(int, os.environ.pop("PASSED", "").split()), 3):
    os.dup2(fd, target)
"""
"""For `support.process.launch`: what a service manager does between fork and exec."""
_HIGH = 600
"""The descriptors of the program that is started are below."""


class FdStore(NotifySocket):
    """Keeps what is sent with FDSTORE=1 until FDSTOREREMOVE=1 or the end, by name.

    A descriptor without FDPOLL=0 is kept until it hangs up, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self._stored: list[tuple[str, int]] = []
        self._watched: set[int] = set()

    def __exit__(self, *failure: Any) -> None:
        super().__exit__(*failure)
        while self._stored:
            os.close(self._stored.pop()[1])

    def _store(self, text: str, descriptors: list[int]) -> None:
        fields = dict(line.partition("=")[::2] for line in text.splitlines())
        name = fields["FDNAME"]
        if "FDSTOREREMOVE" in fields:
            self._drop({fd for _, fd in self._named(name)})
        else:
            for fd in descriptors:
                if not any(os.path.sameopenfile(fd, stored) for _, stored in self._stored):
                    ours = fcntl(fd, F_DUPFD_CLOEXEC, _HIGH)
                    self._stored.append((name, ours))
                    if fields.get("FDPOLL") != "0":
                        self._watched.add(ours)
                        self._poll.register(ours, 0)

    def _drop(self, descriptors: set[int]) -> None:
        for fd in descriptors:
            if fd in self._watched:
                self._watched.remove(fd)
                self._poll.unregister(fd)
            os.close(fd)
        self._stored = [each for each in self._stored if each[1] not in descriptors]

    def _hung_up(self, descriptors: set[int]) -> None:
        self._drop(descriptors & self._watched)

    def _named(self, name: str) -> list[tuple[str, int]]:
        return [each for each in self._stored if each[0] == name]

    @property
    def names(self) -> list[str]:
        """Of what is stored, in the order of coming, when all that was sent so far has come."""
        self._await_sent()
        with self._news:
            return [name for name, _ in self._stored]

    @property
    def descriptors(self) -> list[int]:
        """What is stored: for ``pass_fds`` of the next start."""
        self._await_sent()
        with self._news:
            return [fd for _, fd in self._stored]

    @property
    def environment(self) -> dict[str, str]:
        """Of the next start, which also has to run `PASS`."""
        self._await_sent()
        with self._news:
            if not self._stored:
                return super().environment
            return {
                **super().environment,
                "LISTEN_FDS": str(len(self._stored)),
                "LISTEN_FDNAMES": ":".join(name for name, _ in self._stored),
                "PASSED": " ".join(str(fd) for _, fd in self._stored),
            }
