"""Protocol classes under graced and under asyncio, with a record of the calls."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

from graced import StreamProtocol
from loop.scene import Scene
from support import PATIENCE

MEGABYTE = 1 << 20


def streaming(factory: Callable[[], Any], **changes: Any) -> Any:
    """A stream handler as the registry finds it."""
    usual = {
        "name": "a:Handler",
        "factory": factory,
        "movable": False,
        "holds_back": False,
        "words": None,
    }
    return SimpleNamespace(**{**usual, **changes})


class Record:
    """The calls of one handler, for a test that waits for them."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.received = 0
        self.is_over = False
        """Whether the handler has ended its input."""
        self.is_aborted = False
        self.pending = 0
        """Calls that the handler has scheduled."""
        self._changed = threading.Condition()

    def note(self, call: str, received: int = 0) -> None:
        with self._changed:
            self.received += received
            if call != "data" or self.calls[-1:] != ["data"]:
                self.calls.append(call)
            self._changed.notify_all()

    def notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def has_taken(self, received: int) -> bool:
        """Whether the handler has taken so many bytes and reads on, or reads nothing more."""
        return self.is_over or (self.received >= received and not self.pending)

    @property
    def is_lost(self) -> bool:
        return any(call.startswith("lost") for call in self.calls)

    def wait_for(self, condition: Callable[[], object]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE), self.calls


class Scripted(StreamProtocol):
    """Each byte of the client is a command; the same under asyncio."""

    transport: Any

    def __init__(self, record: Record) -> None:
        self.record = record
        self.keeps_open = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        # Little room: a megabyte is more than the kernel takes.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        self.record.note("made")

    def data_received(self, data: bytes) -> None:
        try:
            for command in bytes(data).decode():
                getattr(self, f"do_{command}")()
        except Exception:
            self.record.is_over = True
            raise
        finally:
            self.record.note("data", len(data))

    def eof_received(self) -> bool:
        self.record.note("eof")
        if self.keeps_open:
            self.transport.write(b"after the end")
            self._later(self.transport.close)
        return self.keeps_open

    def pause_writing(self) -> None:
        self.record.note("pause")

    def resume_writing(self) -> None:
        self.record.note("resume")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.record.note(f"lost {type(exc).__name__}")

    def _later(self, callback: Callable[[], object]) -> None:
        # As in docs/handlers.md: one class for both.
        calls = self.transport
        if not hasattr(calls, "call_later"):
            calls = asyncio.get_running_loop()
        self.record.pending += 1
        calls.call_later(0.01, self._call, callback)

    def _call(self, callback: Callable[[], object]) -> None:
        callback()
        self.record.pending -= 1
        self.record.notify()

    def _say(self, *words: object) -> None:
        if not self.transport.is_closing():
            self.transport.write(repr(words).encode())

    def do_e(self) -> None:
        self.transport.write(b"echo")

    def do_n(self) -> None:
        self.transport.write(b"")

    def do_l(self) -> None:
        # From Python 3.12 on asyncio keeps what is written so to a transport that is closed.
        if not self.transport.is_closing():
            self.transport.writelines([b"one", bytearray(b"two"), memoryview(b"three")])

    def do_B(self) -> None:
        self.transport.write(b"B" * MEGABYTE)

    def do_v(self) -> None:
        self.transport.write(memoryview(bytearray(b"view")))

    def do_t(self) -> None:
        try:
            self.transport.write("text")
        except TypeError as error:
            self._say(type(error).__name__)

    def do_c(self) -> None:
        self.record.is_over = True
        self.transport.close()

    def do_a(self) -> None:
        self.record.is_over = self.record.is_aborted = True
        self.transport.abort()

    def do_f(self) -> None:
        self.transport.write_eof()

    def do_k(self) -> None:
        self.keeps_open = True

    def do_p(self) -> None:
        self.transport.pause_reading()
        self._later(self.transport.resume_reading)

    def do_r(self) -> None:
        self.transport.resume_reading()

    def do_s(self) -> None:
        self.transport.set_write_buffer_limits(high=10)

    def do_S(self) -> None:
        self.transport.set_write_buffer_limits(low=5)

    def do_w(self) -> None:
        try:
            self.transport.set_write_buffer_limits(high=1, low=2)
        except ValueError as error:
            self._say(str(error))

    def do_q(self) -> None:
        transport = self.transport
        self._say(
            transport.is_closing(),
            transport.is_reading(),
            transport.can_write_eof(),
            transport.get_write_buffer_limits(),
            transport.get_protocol() is self,
            transport.get_extra_info("nothing", 7),
        )

    def do_x(self) -> None:
        raise LookupError("x")


class Buffered(Scripted, asyncio.BufferedProtocol):
    """The same commands, received in a buffer of three bytes."""

    def __init__(self, record: Record) -> None:
        super().__init__(record)
        self.buffer = bytearray(3)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self.buffer[:nbytes]))


class Switching(Scripted):
    """Leaves its place to a `Buffered` after the first byte."""

    def data_received(self, data: bytes) -> None:
        self.record.note("data", len(data))
        successor = Buffered(self.record)
        successor.transport = self.transport
        self.transport.set_protocol(successor)


class UnderGraced:
    """An I/O thread whose clients have handlers of a class."""

    def __init__(self, cls: Callable[[Record], Any], **options: Any) -> None:
        self._records: SimpleQueue[Record] = SimpleQueue()
        self._cls = cls
        self.scene = Scene(streaming=streaming(self._make), farewell=None, **options)
        host, port = self.scene.listener.sock.getsockname()
        self.address = (host, port)

    def _make(self) -> Any:
        record = Record()
        self._records.put(record)
        return self._cls(record)

    def next_record(self) -> Record:
        """The record of the next client's handler."""
        return self._records.get(timeout=PATIENCE)

    def close(self) -> None:
        self.scene.close()


class UnderAsyncio:
    """The same on an asyncio loop in a thread."""

    def __init__(self, cls: Callable[[Record], Any]) -> None:
        self._records: SimpleQueue[Record] = SimpleQueue()
        self._cls = cls
        self._alive: list[Any] = []
        """A loop knows nothing of a transport that is paused: it would be collected."""
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _loop, _context: None)
        self._server = self._loop.run_until_complete(
            self._loop.create_server(self._make, "127.0.0.1", 0)
        )
        self.address = self._server.sockets[0].getsockname()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def _make(self) -> Any:
        record = Record()
        self._records.put(record)
        self._alive.append(protocol := self._cls(record))
        return protocol

    def next_record(self) -> Record:
        """The record of the next client's handler."""
        return self._records.get(timeout=PATIENCE)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.call_later, 0.01, self._loop.stop)
        self._thread.join()
        self._loop.close()
