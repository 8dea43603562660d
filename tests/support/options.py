"""Handlers with options."""

from __future__ import annotations

import threading
from socketserver import BaseRequestHandler
from typing import Any, ClassVar

from graced import Option, StreamProtocol

HERE = "support.options"


def _even(value: int) -> int:
    if value % 2:
        raise ValueError("must be even")
    return value


class _Answering:
    """Answers each message with what it knows of its options."""

    options: ClassVar[dict[str, Any]] = {
        "word": Option("default", "what comes first", choices=("default", "written", "again")),
        "number": Option(2, "an even number", low=0, high=100, check=_even),
    }
    at_startup: dict[str, Any]
    configured: dict[str, Any]

    @classmethod
    def configure(cls, options: dict[str, Any]) -> None:
        """Refuse the number 42."""
        if options["number"] == 42:
            raise ValueError("number must not be the answer")
        cls.configured = options

    @classmethod
    def startup(cls, server: Any) -> None:
        cls.at_startup = dict(server.options)

    def answer(self) -> bytes:
        assert self.configured == self.at_startup
        return f"{self.configured['word']} {self.configured['number']}\n".encode()


class Stream(_Answering, StreamProtocol):
    """A stream handler with options.

    Its second paragraph.
    """

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.answer())

    def save(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        """Go on."""


class Blocking(_Answering, BaseRequestHandler):
    """A blocking handler with options."""

    server: Any

    def handle(self) -> None:
        while self.request.recv(1024):
            assert dict(self.server.options) == self.configured
            self.request.sendall(self.answer())

    def save(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        """Go on."""


class Lenient(BaseRequestHandler):
    """Takes any key."""

    seen: dict[str, Any]
    server: Any

    @classmethod
    def configure(cls, options: dict[str, Any]) -> None:
        """Any key is a word, and its value what it means."""
        cls.seen = options

    def handle(self) -> None:
        self.request.recv(1024)
        self.request.sendall(f"{Lenient.seen} {self.server.state_directory}".encode())


class Needy(StreamProtocol):
    options: ClassVar[dict[str, Any]] = {"path": Option(str, "the path of the sensor")}


class Threaded(StreamProtocol):
    """Starts a thread too early."""

    end = threading.Event()
    thread: threading.Thread

    @classmethod
    def configure(cls, options: dict[str, Any]) -> None:
        cls.thread = threading.Thread(target=cls.end.wait)
        cls.thread.start()


class Failing(StreamProtocol):
    @classmethod
    def configure(cls, options: dict[str, Any]) -> None:
        raise KeyError("no such\nkey")


class Waiting(StreamProtocol):
    @classmethod
    async def configure(cls, options: dict[str, Any]) -> None:
        """Never run."""


class Stranger(BaseRequestHandler):
    """Has attributes of these names, and does not know graced."""

    options: ClassVar[dict[str, Any]] = {"debug": None}

    def configure(self, options: Any) -> None:
        raise AssertionError
