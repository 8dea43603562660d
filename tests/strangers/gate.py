"""A gate at which a server waits in the middle of its work, until the test opens the gate.

Where no test keeps the gate it is open.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import TracebackType

PATIENCE = 60.0
"""Seconds."""
VARIABLE = "STRANGERS_GATE"
"""In the environment of the server: the path of the gate."""


def wait() -> None:
    """Return when the gate is open; for the server."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(os.environ[VARIABLE])
            sock.recv(1)
        except (FileNotFoundError, ConnectionError):
            return


class Gate:
    """A closed gate, which opens at the end of the context at the latest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(128)
        self._listener.settimeout(PATIENCE)
        self._waiting: list[socket.socket] = []

    def __enter__(self) -> Gate:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.open()

    def await_servers(self, number: int) -> None:
        """Wait until so many more threads of the server stand at the gate."""
        for _ in range(number):
            self._waiting.append(self._listener.accept()[0])

    def open(self) -> None:
        self._path.unlink(missing_ok=True)
        self._listener.close()
        while self._waiting:
            self._waiting.pop().close()
