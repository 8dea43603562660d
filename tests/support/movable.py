"""Handlers that can go on in the next process, for ``--handler support.movable:NAME``."""

from __future__ import annotations

import os
import socketserver
import time


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
