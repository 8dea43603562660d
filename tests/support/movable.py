"""Handlers that can go on in the next process, for ``--handler support.movable:NAME``."""

from __future__ import annotations

import os
import socketserver
import time
from typing import Any, ClassVar


def wait_for_gate() -> None:
    """Be busy until the file $GATE is there: a handler has no other way to hear of a test."""
    while not os.path.exists(os.environ["GATE"]):
        time.sleep(0.01)


class CountingHandler(socketserver.BaseRequestHandler):
    """Answers each message with its number; ``busy`` when the gate opens, ``compute`` never."""

    number = 0

    def handle(self) -> None:
        while data := self.request.recv(1024):
            self.number += 1
            if data == b"busy":
                wait_for_gate()
            while data == b"compute":
                pass
            self.request.sendall(b"%d" % self.number)

    def save(self) -> bytes:
        return b"%d" % self.number

    def restore(self, state: bytes) -> None:
        self.number = int(state)


class ForgetfulHandler(socketserver.BaseRequestHandler):
    """The same without state: cannot go on."""

    handle = CountingHandler.handle
    number = 0


class OtherHandler(CountingHandler):
    """Has a farewell, and would misunderstand the state of any other."""

    farewell = b"SHUTDOWN"

    def save(self) -> bytes:
        return b"other %d" % self.number

    def restore(self, state: bytes) -> None:
        self.number = int(state.removeprefix(b"other "))


class ChatHandler(socketserver.StreamRequestHandler):
    """Sends each line to everybody, and says who comes and who goes.

    ``slow`` makes the handler take its time at the next start.
    """

    room: ClassVar[set[ChatHandler]] = set()
    wbufsize = 65536
    name = ""
    slow = False

    def setup(self) -> None:
        super().setup()
        self.wfile.write(b"welcome\n")
        self.wfile.flush()
        self.wfile.write(b"(unflushed greeting)\n")
        self.say(b"somebody comes\n")
        self.room.add(self)

    def say(self, line: bytes) -> None:
        for other in self.room - {self}:
            other.request.sendall(line)

    def handle(self) -> None:
        self.wfile.flush()
        for line in self.rfile:
            if line == b"slow\n":
                self.slow = True
                self.request.sendall(b"slow then\n")
            elif line == b"later\n":
                self.wfile.write(b"unflushed answer\n")
                self.request.sendall(b"later then\n")
            elif line.startswith(b"name "):
                self.name = line.split()[1].decode()
                self.request.sendall(b"hello\n")
            else:
                self.wfile.flush()
                self.say(self.name.encode() + b": " + line)

    def finish(self) -> None:
        self.room.discard(self)
        self.say(b"somebody goes\n")
        super().finish()

    def save(self) -> bytes:
        return f"{self.name} {'slow' * self.slow}".encode()

    def restore(self, state: bytes) -> None:
        self.name, slow = state.decode().split(" ")
        if slow:
            wait_for_gate()
        self.request.sendall(b"not to be heard\n")

    @classmethod
    def restored(cls, server: Any) -> None:
        for each in cls.room:
            each.request.sendall(b"all are back\n")


class TickingHandler(socketserver.BaseRequestHandler):
    """Never reads."""

    greets = True
    only_writes = True
    number = 0

    def handle(self) -> None:
        while True:
            self.request.sendall(b"%d\n" % self.number)
            self.number += 1
            time.sleep(0.01)

    save = CountingHandler.save
    restore = CountingHandler.restore
