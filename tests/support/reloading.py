"""A daemon that can be reloaded, under a service manager of the tests."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from graced.app.new_process import CHANNEL
from support.attempts import attempts
from support.client import Client
from support.control import environment_in
from support.log import PATIENCE
from support.notify import Message
from support.process import CHECKOUT, LEFT_TO_THE_KERNEL, TESTS, Daemon, environment, wait_for_end
from support.store import PASS, FdStore

_SOCK_DIAG, _BY_FAMILY, _REQUEST = 4, 20, 1
_SHOW_QUEUES, _QUEUES = 0x10, 4
"""Of linux/sock_diag.h, netlink.h and unix_diag.h."""
GRACECTL = [sys.executable, "-m", "graced.ctl.gracectl"]


class Reloadable(Daemon):
    """A daemon; `pid` is that of the process that serves, after `follow` the new one."""

    def __init__(
        self, store: FdStore, directory: Path, *options: str, library: str = "", **more: Any
    ) -> None:
        """`directory`: an empty one, for the control socket.

        `library`: the text of the module ``own`` that a handler is in; it can be changed by
        `own.write_text`.
        """
        self.store = store
        self.runtime = directory / "run"
        self.runtime.mkdir()
        self.own = directory / "lib" / "own.py"
        self.own.parent.mkdir()
        self.own.write_text(library)
        env = {
            **store.environment,
            **environment_in(self.runtime),
            **LEFT_TO_THE_KERNEL,
            "PYTHONPATH": f"{self.own.parent}:{CHECKOUT / 'daemon'}:{TESTS}",
        }
        super().__init__(*options, env=env, before=PASS, **more)
        self._serving = 1

    def begin_to_reload(self) -> subprocess.Popen[str]:
        """``gracectl reload``, which goes on; a context manager."""
        return subprocess.Popen(
            [*GRACECTL, "reload", "--socket", str(self.runtime / "control")],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def reload(self) -> tuple[int, str]:
        """Reload; the status of ``gracectl reload``, and what it has said."""
        with self.begin_to_reload() as command:
            stdout, stderr = command.communicate(timeout=PATIENCE)
        return command.returncode, stdout + stderr

    def follow(self) -> int:
        """The new process serves; return the pid of the old one."""
        self._serving += 1
        old = self.pid
        self.pid = int(self.log.wait_for(r"serving on .* with pid (\d+)$", self._serving)[1])
        assert self.pid != old
        return old

    def await_pid_file(self) -> None:
        """Wait until the pidfile names the process that serves."""
        for _ in attempts("the pidfile names the new process"):
            if self.pid_file.read_text() == f"{self.pid}\n":
                return

    def reload_and_wait(self) -> int:
        """Reload, and wait until the old process has ended; its pid."""
        status, said = self.reload()
        assert status == 0, said
        old = self.follow()
        assert wait_for_end(old) == 79
        return old

    def said_by(self, pid: int) -> list[Message]:
        """What a process has said to the service manager, without barriers."""
        said = [each for each in self.store.messages if each.sender == pid]
        return [each for each in said if each.text != "BARRIER=1"]


class Talking:
    """Clients that talk all the time, each in a thread, as a context manager."""

    def __init__(self, clients: Iterable[Client]) -> None:
        self.rounds = 0
        self._stop = threading.Event()
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._talk, args=(client,), name="test client")
            for client in clients
        ]

    def _talk(self, client: Client) -> None:
        number = 0
        try:
            while not self._stop.is_set():
                number += 1
                client.echo(b"%d of a client that talks all the time" % number)
                self.rounds += 1
        except BaseException as failure:
            self._failures.append(failure)

    def __enter__(self) -> Talking:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise self._failures[0]


def echo_all(clients: Sequence[Client], text: bytes) -> None:
    """Each client is served."""
    for client in clients:
        client.echo(text)


def unread_letters(pid: int) -> int:
    """The bytes in the channel that a new process has not read, as one that is stopped.

    As ss(8) asks: unix_diag in sock_diag(7), which needs no right over the process.
    """
    link = os.readlink(f"/proc/{pid}/fd/{CHANNEL}")
    inode = int(link.removeprefix("socket:[").removesuffix("]"))
    asked = struct.pack("=BBHIIIii", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, inode, _SHOW_QUEUES, -1, -1)
    header = struct.pack("=IHHII", 16 + len(asked), _BY_FAMILY, _REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as diag:
        diag.send(header + asked)
        answer = diag.recv(4096)
    (kind,) = struct.unpack_from("=H", answer, 4)
    assert kind == _BY_FAMILY, answer
    at = 32
    while at < len(answer):
        size, attribute = struct.unpack_from("=HH", answer, at)
        if attribute == _QUEUES:
            (waiting,) = struct.unpack_from("=I", answer, at + 4)
            return int(waiting)
        at += (size + 3) & ~3
    raise AssertionError(answer)
