"""The control socket of a graced under test, and a peer of it."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from graced.sockets.timeout import set_timeout
from support.client import MOMENT
from support.log import PATIENCE
from support.process import environment

CONTROL = "io.graced.Control"
SERVICE = "org.varlink.service"


def environment_in(directory: Path) -> dict[str, str]:
    """What a service manager says to a graced whose runtime directory this is."""
    return {"RUNTIME_DIRECTORY": str(directory)}


class Operator:
    """A connection to a control socket, as a context manager."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(PATIENCE)
        self._buffer = b""

    @classmethod
    def of(cls, directory: Path) -> Operator:
        """Of the graced with this runtime directory."""
        sock = socket.socket(socket.AF_UNIX)
        try:
            # With a timeout of Python's it would not wait for its turn, but fail.
            set_timeout(sock, socket.SO_SNDTIMEO, PATIENCE)
            sock.connect(str(directory / "control"))
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.sock.close()

    def send(self, method: str, **more: Any) -> None:
        """Call a method, without waiting for the replies."""
        self.sock.sendall(json.dumps({"method": method, **more}).encode() + b"\0")

    def reply(self) -> dict[str, Any]:
        """The next reply.  Raises `EOFError`."""
        while b"\0" not in self._buffer:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        found = json.loads(text)
        assert isinstance(found, dict)
        return found

    def call(self, method: str, **more: Any) -> dict[str, Any]:
        """Call a method that has one reply."""
        self.send(method, **more)
        return self.reply()

    def send_until_full(self, method: str) -> None:
        """Call a method until no call fits into the kernel's buffers; read no reply."""
        poll = select.poll()
        poll.register(self.sock, select.POLLOUT)
        while poll.poll(1000 * MOMENT):
            with suppress(BlockingIOError):
                data = json.dumps({"method": method, "more": True}).encode() + b"\0"
                self.sock.send(data, socket.MSG_DONTWAIT)

    def read_to_end(self) -> None:
        """Discard all that comes until the other side has closed."""
        with suppress(ConnectionResetError):
            while self.sock.recv(65536):
                pass

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.call(f"{CONTROL}.Status")["parameters"]
        return found

    def clients(self, **filters: Any) -> list[dict[str, Any]]:
        """All clients that pass."""
        self.send(f"{CONTROL}.ListClients", parameters=filters, more=True)
        found: list[dict[str, Any]] = []
        while True:
            reply = self.reply()
            found += reply["parameters"]["clients"]
            if not reply.get("continues"):
                return found


def gracectl(
    *words: str, directory: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command that asks the graced with this runtime directory."""
    command, *options = words
    return subprocess.run(
        [
            *(sys.executable, "-m", "graced.ctl.gracectl", command),
            *("--socket", str(directory / "control"), *options),
        ],
        env=environment({"TZ": "UTC", **(env or {})}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def started_gracectl(
    *words: str, directory: Path, stdout: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """The same, which goes on; a context manager."""
    command, *options = words
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "graced.ctl.gracectl", command),
            *("--socket", str(directory / "control"), *options),
        ],
        env=environment(),
        stdout=stdout,
        text=True,
    )


def read_until(fd: int, wanted: bytes) -> bytes:
    """What a terminal shows until `wanted` is among it."""
    shown = b""
    while wanted not in shown:
        shown += os.read(fd, 65536)
    return shown
