"""Handlers as users of graced would write them, for ``--handler support.handlers:NAME``."""

from __future__ import annotations

import logging
import socket
import socketserver
import sys
import threading
import time
from typing import Any

HERE = "support.handlers"


class TutorialHandler(socketserver.BaseRequestHandler):
    """The echo of many a tutorial on `socketserver`: it knows nothing of graced."""

    def handle(self) -> None:
        connection = self.request
        while True:
            data = connection.recv(1024)

            if not data:
                break

            logging.info("recv: %r", data)
            connection.sendall(data)


class TellingHandler(TutorialHandler):
    """Declares the farewell of the built-in echo."""

    farewell = b"SHUTDOWN"


class ShoutingHandler(socketserver.StreamRequestHandler):
    """Answers lines, through the files of `socketserver.StreamRequestHandler`."""

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.upper())


class PatientHandler(ShoutingHandler):
    """Has the timeout of `socketserver.StreamRequestHandler`."""

    timeout = 600


class GreetingHandler(socketserver.BaseRequestHandler):
    """Speaks first."""

    greets = True

    def handle(self) -> None:
        self.request.sendall(b"hello ")
        while data := self.request.recv(1024):
            self.request.sendall(data)


class PoliteHandler(TutorialHandler):
    """Has a farewell of its own."""

    farewell = "see you later\n"


class EloquentHandler(socketserver.BaseRequestHandler):
    """Says goodbye itself, when it is told that it is time to."""

    farewell = None
    greets = True
    server: Any

    def handle(self) -> None:
        self.request.sendall(b"ready")
        self.server.draining.wait()
        left = self.server.deadline - time.monotonic()
        self.request.sendall(b"goodbye, %d" % round(left))


class FailingHandler(socketserver.BaseRequestHandler):
    """Echoes, but cannot stand the number seven."""

    def handle(self) -> None:
        while data := self.request.recv(1024):
            if data == b"7":
                raise ValueError("seven is not nice")
            self.request.sendall(data)


class StubbornHandler(socketserver.BaseRequestHandler):
    """Never returns, whatever becomes of its client."""

    def handle(self) -> None:
        self.request.sendall(self.request.recv(1024))
        threading.Event().wait()


class ChattyHandler(socketserver.BaseRequestHandler):
    """Writes whole numbered lines without a pause and never reads, once it was asked to."""

    def handle(self) -> None:
        self.request.recv(1024)
        number = 0
        while True:
            self.request.sendall(b"%08d\n" % number)
            number += 1


class BlockingHandler(socketserver.BaseRequestHandler):
    """Can make the I/O thread hang, from ``hang`` until another client says ``go on``."""

    server: Any
    gate = threading.Event()

    def handle(self) -> None:
        while data := self.request.recv(1024):
            if data == b"hang":
                self.gate.clear()
                self.server.io_threads[0].post(self.gate.wait)
            elif data == b"go on":
                self.gate.set()
            self.request.sendall(data)


class CallingHandler(socketserver.BaseRequestHandler):
    """Echoes with the less usual calls of a socket."""

    def handle(self) -> None:
        buffer = bytearray(1024)
        while number := self.request.recv_into(buffer, nbytes=512):
            self.request.sendmsg([buffer[:1], buffer[1:number]])
            data, _, _, _ = self.request.recvmsg(1024)
            sent = 0
            while sent < len(data):
                sent += self.request.send(data[sent:], socket.MSG_NOSIGNAL)


class UnspeakableError(Exception):
    """What a client says, as the text of an exception."""


class QuotingHandler(socketserver.BaseRequestHandler):
    """Fails with the words of its client, and after a number with as many frames."""

    def handle(self) -> None:
        data = self.request.recv(1 << 20)
        if data.isdigit():
            sys.setrecursionlimit(int(data) + 1000)
            self.fail(int(data))
        raise UnspeakableError(data.decode("utf-8", "surrogateescape"))

    def fail(self, depth: int) -> None:
        if not depth:
            raise UnspeakableError("at the bottom")
        self.fail(depth - 1)
