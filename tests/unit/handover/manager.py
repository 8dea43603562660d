"""A service manager that really stores descriptors."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graced.handover.fdstore import LISTENERS
from support import PATIENCE


class Manager:
    """The service manager's end of NOTIFY_SOCKET, with a store; a context manager.

    Like systemd, it closes a descriptor that does not fit and does not say so.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.name = str(path)
        self.limit = limit
        self.messages: list[str] = []
        self._stored: list[tuple[str, int]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.name)
        self._settled = threading.Semaphore(0)
        self._stopped, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._read, name="test manager")

    def __enter__(self) -> Manager:
        self._thread.start()
        return self

    def __exit__(self, *_error: Any) -> None:
        os.close(self._stop)
        self._thread.join()
        os.close(self._stopped)
        self._socket.close()
        self._filter(lambda _name: False)

    def _read(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._stopped, select.POLLIN)
        while self._socket.fileno() in (ready := [fd for fd, _ in poll.poll()]):
            self._take()
        assert ready

    def _take(self) -> None:
        data, fds, flags, _ = socket.recv_fds(self._socket, 65536, 253, socket.MSG_CMSG_CLOEXEC)
        assert not flags & socket.MSG_CTRUNC
        self.messages.append(data.decode())
        words = dict(line.split("=", 1) for line in self.messages[-1].split("\n"))
        if words.get("FDSTORE") == "1":
            watched = "FDPOLL" not in words
            assert watched == (words["FDNAME"] == LISTENERS), "what hangs up would be removed"
            while fds and len(self._stored) < self.limit:
                self._stored.append((words["FDNAME"], fds.pop(0)))
        elif words.get("FDSTOREREMOVE") == "1":
            self._filter(lambda name: name != words["FDNAME"])
        elif words.get("X_SETTLED") == "1":
            self._settled.release()
        for fd in fds:
            os.close(fd)

    def _filter(self, wanted: Callable[[str], bool]) -> None:
        for name, fd in self._stored:
            if not wanted(name):
                os.close(fd)
        self._stored = [(name, fd) for name, fd in self._stored if wanted(name)]

    def _settle(self) -> None:
        """Wait until all messages so far are handled."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"X_SETTLED=1", self.name)
        assert self._settled.acquire(timeout=PATIENCE)

    def forget(self, name: str) -> None:
        """Remove descriptors, as if there had never been room for them."""
        self._settle()
        self._filter(lambda stored: stored != name)

    def names(self) -> set[str]:
        """The names in the store now."""
        self._settle()
        return {name for name, _ in self._stored}

    def pass_on(self) -> list[tuple[int, str]]:
        """The descriptors that a process would find which is started now."""
        self._settle()
        return [(os.dup(fd), name) for name, fd in self._stored]
