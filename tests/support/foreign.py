"""Handlers and servers that know nothing of graced, as many programs have them."""

from __future__ import annotations

import os
import select
import socket
import socketserver
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


class KeepAlive(BaseHTTPRequestHandler):
    """HTTP/1.1: GET of a name, of a file, of an answer in two slow parts; POST echoes."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/file"):
            self._send_file(sendfile=self.path.endswith("sendfile"))
        elif self.path == "/slow":
            self._answer([b"slow", b" answer"], pause=0.5)
        else:
            self._answer([f"GET {self.path}".encode()])

    def do_POST(self) -> None:
        self._answer([self.rfile.read(int(self.headers["Content-Length"]))])

    def _answer(self, parts: list[bytes], pause: float = 0.0) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(sum(map(len, parts))))
        self.end_headers()
        for part in parts:
            self.wfile.write(part)
            time.sleep(pause)

    def _send_file(self, *, sendfile: bool) -> None:
        path = Path(os.environ["FOREIGN_FILE"])
        self.send_response(200)
        self.send_header("Content-Length", str(path.stat().st_size))
        self.end_headers()
        with path.open("rb") as file:
            if sendfile:
                self.connection.sendfile(file)
            else:
                while chunk := file.read(65536):
                    self.wfile.write(chunk)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Lines(socketserver.StreamRequestHandler):
    """Answers each line, and says a last word at the end of the input."""

    greeting = b""

    def handle(self) -> None:
        self.wfile.write(self.greeting)
        for line in self.rfile:
            self.wfile.write(line.upper())
        self.wfile.write(b"221 bye\n")


class Greeting(Lines):
    """Speaks first."""

    greets = True
    greeting = b"220 hello\n"


class Banner(Lines):
    """Speaks first, and its author has forgotten to say so."""

    greeting = b"220 hello\n"


class Unavailable(Lines):
    """Has a farewell for each client."""

    count = 0

    def farewell(self) -> bytes:
        return f"421 goodbye {self.client_address[1]}\n".encode()


class Hopeless(Lines):
    """Fails to find a farewell."""

    def farewell(self) -> bytes:
        raise ValueError("no words")


class Failing(Lines):
    """Fails at the first line."""

    def handle(self) -> None:
        self.rfile.readline()
        raise ValueError("broken")


class Encrypted(socketserver.BaseRequestHandler):
    """Wraps its socket, and answers each message; an end of file ends the session of TLS."""

    options = 0

    def handle(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # Some builds of Python set it by themselves.
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        context.options |= self.options
        context.load_cert_chain(os.environ["FOREIGN_CERTIFICATE"])
        with context.wrap_socket(self.request, server_side=True) as request:
            while data := request.recv(1024):
                if data == b"stay":
                    threading.Event().wait()
                request.sendall(data.upper())
            request.sendall(b"bye")


class Tolerant(Encrypted):
    """Goes on writing after an end of file."""

    options = ssl.OP_IGNORE_UNEXPECTED_EOF


class Detached(socketserver.BaseRequestHandler):
    """Goes on with a socket of its own, and never looks at the end of its input."""

    def handle(self) -> None:
        request = socket.socket(fileno=self.request.detach())
        data = b" "
        while data != b"":
            data = request.recv(1024)
            if data == b"stay":
                threading.Event().wait()
            request.sendall(data)
        request.close()


class Selecting(socketserver.BaseRequestHandler):
    """Waits in select(2)."""

    def handle(self) -> None:
        while select.select([self.request], [], [])[0]:
            data = self.request.recv(1024)
            if not data:
                break
            self.request.sendall(data.upper())
        self.request.sendall(b"bye")


class Context(socketserver.BaseRequestHandler):
    """Uses the socket as a context manager, and can be carried."""

    number = 0

    def handle(self) -> None:
        with self.request:
            while self.request.recv(1024):
                self.number += 1
                self.request.sendall(b"%d" % self.number)

    def save(self) -> bytes:
        return b"%d" % self.number

    def restore(self, state: bytes) -> None:
        self.number = int(state)


class SelectingElsewhere(socketserver.BaseRequestHandler):
    """Pauses in the middle of an answer until another client comes, in select(2).

    The first argument of that call, the highest descriptor plus 1, is the number of the connection.
    """

    input, output = -1, -1

    @classmethod
    def startup(cls, _server: Any) -> None:
        cls.input, cls.output = os.pipe()
        # No number below the last is free: the next client gets one of those that are closed.
        numbers = [os.dup(cls.input) for _ in range(100)]
        for number in numbers[-4::2]:
            os.close(number)

    def handle(self) -> None:
        if self.request.recv(1024) == b"go on":
            os.write(self.output, b".")
            return
        neighbour = self.request.fileno() - 1
        assert os.path.sameopenfile(neighbour, self.input)
        self.request.sendall(b"one, ")
        select.select([neighbour], [], [])
        self.request.sendall(b"two")
