"""Handlers for graced that answer each line with its upper case.

`Upper` is the fast one; `UpperBlocking` does the same in a thread for each client, which may wait.
"""

import os
import socketserver
import threading
from typing import Any, ClassVar

from graced import Option, StreamProtocol

TOTAL = "total"
"""The file in the state directory: the number of lines so far."""


class Counted:
    """What the two handlers share: options, and a count of lines that outlives the service."""

    options: ClassVar = {
        "prefix": Option("", "text before each answer"),
        "longest": Option(1024, "bytes of the longest line, its end included", low=1, high=65536),
    }
    prefix = b""
    longest = 1024
    total = 0
    lock = threading.Lock()

    @classmethod
    def configure(cls, options: dict[str, Any]) -> None:
        cls.prefix = options["prefix"].encode()
        cls.longest = options["longest"]

    @classmethod
    def startup(cls, server: Any) -> None:
        if server.state_directory:
            path = os.path.join(server.state_directory, TOTAL)
            if os.path.exists(path):
                with open(path) as file:
                    cls.total = int(file.read())

    @classmethod
    def shutdown(cls, server: Any) -> None:
        if server.state_directory:
            path = os.path.join(server.state_directory, TOTAL)
            # The old file or the new one, whenever the power is cut.
            with open(f"{path}.new", "w") as file:
                file.write(f"{cls.total}\n")
                file.flush()
                os.fsync(file.fileno())
            os.rename(f"{path}.new", path)

    @classmethod
    def answer(cls, line: bytes) -> bytes:
        """The answer to one line, with its newline."""
        with cls.lock:
            cls.total += 1
        return cls.prefix + line.upper()


class Upper(Counted, StreamProtocol):
    """Answers each line with its upper case, on the I/O thread."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            if len(line) >= self.longest:
                break
            self.transport.write(self.answer(line + b"\n"))
        else:
            if len(self.rest) < self.longest:
                return
        self.transport.close()

    def save(self) -> bytes:
        return self.rest

    def restore(self, state: bytes) -> None:
        self.rest = state


class UpperBlocking(Counted, socketserver.StreamRequestHandler):
    """Answers each line with its upper case, in a thread for each client."""

    def handle(self) -> None:
        while (line := self.rfile.readline(self.longest)).endswith(b"\n"):
            self.wfile.write(self.answer(line))

    def save(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        """Between two lines there is no state; what was read ahead, graced saves."""
