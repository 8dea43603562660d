"""Stream handlers as users of graced would write them, for ``--handler support.streams:NAME``.

Each also runs under asyncio.
"""

from __future__ import annotations

import logging
from typing import Any

from graced import StreamProtocol

HERE = "support.streams"


class Echo(StreamProtocol):
    """Answers at once."""

    transport: Any

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class TellingEcho(Echo):
    """Declares the farewell of the built-in echo."""

    farewell = b"SHUTDOWN"


class MovableEcho(TellingEcho):
    """Goes on in another process."""

    def save(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        assert state == b""


class Roll(MovableEcho):
    """Tells all clients when all are back, and says who has started and ended the service."""

    farewell = b""
    back: list[Any] = []  # noqa: RUF012
    server: Any = None

    @classmethod
    def startup(cls, server: Any) -> None:
        assert not server.draining.is_set()
        cls.server = server
        print("the roll is open", flush=True)

    @classmethod
    def restored(cls, server: Any) -> None:
        assert server.io_threads
        for each in cls.back:
            each.call_soon_threadsafe(each.write, b"%d back\n" % len(cls.back))

    @classmethod
    def shutdown(cls, server: Any) -> None:
        assert server.draining.is_set()
        print("the roll is closed")

    def restore(self, state: bytes) -> None:
        super().restore(state)
        self.back.append(self.transport)


class Successor(Echo):
    """Another protocol, after a word of the client; it knows nothing of a restart."""


class Switching(MovableEcho):
    """Leaves its client to a `Successor` at the word."""

    def data_received(self, data: bytes) -> None:
        if data == b"switch":
            successor = Successor()
            successor.transport = self.transport
            self.transport.set_protocol(successor)
        super().data_received(data)

    def farewell(self) -> bytes:  # type: ignore[override]
        return b"SHUTDOWN"


class BufferedEcho(Echo):
    """Reads into a buffer of its own."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.buffer = bytearray(4096)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(self.buffer[:nbytes])


class BufferedTellingEcho(BufferedEcho):
    """The same, with the farewell of the built-in echo."""

    farewell = b"SHUTDOWN"


class WhoIsThere(Echo):
    """Says who has signed for its client in TLS, or is its client."""

    def data_received(self, data: bytes) -> None:
        certificate = self.transport.get_extra_info("peercert")
        _, version, _ = self.transport.get_extra_info("cipher")
        (((_, name),),) = certificate["subject"]
        self.transport.write(f"{name} {version}".encode())


class Failing(Echo):
    """Echoes, but cannot stand some numbers, each in another callback."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.seven = False

    def data_received(self, data: bytes) -> None:
        if data == b"7":
            raise ValueError("seven is not nice")
        if data == b"8":
            self.transport.call_later(0, self._fail)
        if data == b"9":
            self.seven = True
        self.transport.write(data)

    def eof_received(self) -> None:
        if self.seven:
            self._fail()

    def connection_lost(self, exc: BaseException | None) -> None:
        if isinstance(exc, ValueError):
            raise KeyError("not logged: the client has its record")

    @staticmethod
    def _fail() -> None:
        raise ValueError("seven is not nice")


class Quoting(Echo):
    """Fails with what its client says, and has said it to `logging` before.

    A client's text is one line of a Python literal.  A number: so many exceptions, each for the
    reason of the one before, and a note of as many bytes.
    """

    def data_received(self, data: bytes) -> None:
        if data.isdigit():
            self._fail(int(data))
        text = data.decode("unicode_escape")
        logging.getLogger(f"quoting {text[:20]}").error("heard %s", text)
        raise ValueError(text)

    @staticmethod
    def _fail(number: int) -> None:
        error: Exception = ValueError("the first")
        for _ in range(number):
            following = ValueError("another")
            following.__cause__ = error
            error = following
        error.add_note("n" * number)
        raise ExceptionGroup("many", [error, OSError(5, "\n<0>forged")])
