"""The transport: a client as its stream handler sees the client.

The names and contracts are those of `asyncio.Transport`, which is not imported.  A transport *is*
the client of the I/O thread, with a few slots more: an idle client costs no further object but the
handler's own.

`graced.loop.streams` calls the handler; no method here does, with the one exception that
`pause_writing` is called by `write`, as in asyncio.
"""

from __future__ import annotations

from select import EPOLLIN
from socket import SHUT_WR
from time import monotonic

from graced.loop.client import TURNED_AWAY, Client
from graced.loop.event_source import EventSource
from graced.loop.phase import CALLING, GONE, WRITE_BLOCKED
from graced.loop.policy import LONGEST_PAUSE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from socket import socket
    from typing import Any

    from graced.loop.interfaces import TransportOwner

HIGH_WATER = 64 * 1024
"""Bytes of the write buffer above which a handler is asked to pause, unless it sets limits."""
_LIMITS = (HIGH_WATER // 4, HIGH_WATER)
_OF_TLS = {"cipher": "cipher", "peercert": "getpeercert"}
"""Methods of `ssl.SSLSocket`, by the names of asyncio."""
_BYTES_LIKE = (bytes, bytearray, memoryview)


class Transport(Client):
    """A connection.  For the I/O thread alone, except `call_soon_threadsafe`.

    The methods are those of `asyncio.Transport`, and `call_soon`, `call_later` and
    `call_soon_threadsafe` of the asyncio loop.
    """

    __slots__ = (
        "at_eof",
        "buffered",
        "closing",
        "direct",
        "eof_written",
        "error",
        "header",
        "interest",
        "limits",
        "lost",
        "part",
        "parting",
        "protocol",
        "reading",
        "reads_plainly",
        "streams",
        "unanswered",
        "writing_paused",
    )

    unsent: bytes | bytearray  # type: ignore[assignment]
    parting: str

    def __init__(
        self,
        streams: TransportOwner,
        sock: socket,
        host: str,
        port: int,
        phase: int,
        now: float,
        header: int = 0,
    ) -> None:
        Client.__init__(self, sock, host, port, phase, now)
        self.streams = streams
        self.header = header
        self.protocol: Any = None
        """The handler; None before `connection_made` and after `connection_lost`."""
        self.buffered = False
        """Whether the handler has the callbacks of an `asyncio.BufferedProtocol`."""
        self.interest = EPOLLIN
        """The events that epoll waits for; -1: the descriptor is not in the epoll set."""
        self.reads_plainly = True
        """Whether input is waited for, and nothing else, and goes to `data_received`."""
        self.reading = True
        """Whether the handler wants to be called with input."""
        self.unanswered: bool | None = None
        """Whether the handler has written nothing since it got input; None: it got none yet."""
        self.at_eof = False
        """Whether the handler's input has ended."""
        self.eof_written = False
        """Whether the handler has ended its output."""
        self.closing = False
        """Whether the handler gets no more input, and the connection ends with the last byte."""
        self.direct = False
        """Whether `write` may send at once: nothing is unsent, nothing has ended.

        False is never wrong: the next write looks closer."""
        self.lost = False
        """Whether the connection ends now; what is written is dropped."""
        self.writing_paused = False
        """Whether the handler was told to pause writing."""
        self.limits = _LIMITS
        """The limits of the write buffer, low and high."""
        self.error: BaseException | None = None
        """The argument of `connection_lost`."""
        self.part: Call | None = None
        """The latest of the timed calls that the handler has asked for since its last input."""
        self.parting = TURNED_AWAY
        """The reason in the log for the end of the connection."""

    # Writing.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, or keep them in the write buffer until the client takes them."""
        # The usual write makes no call but send(2), see `graced.loop.stream_input`.
        if not (self.direct and type(data) is bytes and data):
            data = self._to_send(data)
            if not data:
                return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.streams.end_soon(self, error)
            return
        streams = self.streams
        self.unanswered = False
        self.last = streams.poller.now
        self.echoed += sent
        streams.clients.echoed += sent
        if sent != len(data):
            streams.keep_unsent(self, data, sent)

    def _to_send(self, data: Any) -> Any:
        """The bytes of a write that may be sent now; none where they wait, or are dropped."""
        if type(data) is not bytes:
            data = _as_bytes_like(data)
        if self.eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not data or self.lost:
            return b""
        if self.unheard:
            self.streams.clients.log.hear(self)
        if not self.unsent:
            self.direct = True
            return data
        self.unanswered = False
        self.last = self.streams.poller.now
        self.streams.keep_unsent(self, data, 0)
        return b""

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send the bytes one after the other."""
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        """Send end of file after the write buffer; the client can still send.

        Raises `NotImplementedError` in TLS, as asyncio does.
        """
        if self.has_tls:
            raise NotImplementedError
        if self.closing or self.eof_written:
            return
        self.eof_written = True
        self.direct = False
        if not self.unsent:
            self.shut_output()

    def can_write_eof(self) -> bool:
        """Whether the connection can be ended in one direction: not in TLS."""
        return not self.has_tls

    def shut_output(self) -> None:
        """Send end of file now."""
        try:
            self.sock.shutdown(SHUT_WR)
        except OSError as error:
            self.streams.end_soon(self, error)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the sizes of the write buffer at which writing pauses, and resumes."""
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self.limits = (low, high)
        self.streams.pause_writing(self)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The sizes at which writing resumes, and pauses."""
        return self.limits

    def get_write_buffer_size(self) -> int:
        """The number of bytes that the client has not taken yet."""
        return len(self.unsent)

    # Reading.

    def is_reading(self) -> bool:
        """Whether the handler gets input."""
        return self.reading and not (self.closing or self.at_eof)

    def pause_reading(self) -> None:
        """Leave further input unread."""
        if self.reading and not self.closing:
            self.reading = False
            self.streams.watch(self)

    def resume_reading(self) -> None:
        """Read input again."""
        if not (self.reading or self.closing):
            self.reading = True
            self.streams.watch(self)

    # The end.

    def is_closing(self) -> bool:
        """Whether the connection ends, or has ended."""
        return self.closing

    def close(self) -> None:
        """Read nothing more, send the write buffer, and end the connection."""
        if not self.closing:
            self.closing = True
            if self.unsent:
                self.phase = WRITE_BLOCKED
                self.streams.watch(self)
            else:
                self.streams.end_soon(self, None)

    def abort(self) -> None:
        """End the connection at once; the write buffer is dropped."""
        self.streams.end_soon(self, None, aborted=True)

    # The handler, and what else it may ask for.

    def set_protocol(self, protocol: Any) -> None:
        """Call another handler from now on."""
        self.buffered = hasattr(protocol, "buffer_updated")
        self.protocol = protocol
        self.note_interest(self.interest)

    def note_interest(self, interest: int) -> None:
        """Note for which events epoll waits."""
        self.interest = interest
        self.reads_plainly = interest == EPOLLIN and not self.buffered

    def get_protocol(self) -> Any:
        """The handler that is called."""
        return self.protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``peername``, ``sockname``, ``socket``; ``restored``: the state of another process.

        In TLS also ``cipher`` and ``peercert``, as asyncio has them.
        ``restored`` is True in the `connection_made` of a handler whose `restore` follows.
        """
        if name == "peername":
            return self._peername()
        if name == "restored":
            return self.saved is not None
        if name in _OF_TLS and self.has_tls:
            return getattr(self.sock, _OF_TLS[name])()
        try:
            if name == "sockname":
                return self.sock.getsockname()
        except OSError:
            return default
        return SocketInfo(self.sock) if name == "socket" else default

    def _peername(self) -> Any:
        if self.header:
            return self.peer
        try:
            return self.sock.getpeername()
        except OSError:
            # The client has reset the connection.
            return self.peer

    # Calls.

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Call:
        """Call a function after this callback, unless the connection is lost by then."""
        return self.call_later(0.0, callback, *args)

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Call:
        """Call a function after `delay` seconds, unless the connection is lost by then."""
        call = Call(self, callback, args)
        due = monotonic() + delay
        self.streams.poller.timers.schedule(call, due)
        if delay < LONGEST_PAUSE and not (self.part and self.part.due > due):
            self.part = call
        return call

    @property
    def awaits_part(self) -> bool:
        """Whether a timed call may be the next part of an answer."""
        return self.part is not None and 0.0 < self.part.due < self.streams.clients.parts_until

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> Call:
        """Call a function in the I/O thread, unless the connection is lost.  Any thread may call.

        The way to answer from a thread: ``transport.call_soon_threadsafe(transport.write, data)``.
        """
        call = Call(self, callback, args)
        if not self.lost:
            self.streams.poller.post(call.run)
        return call


class Call(EventSource):
    """A scheduled call, by the contract of `asyncio.Handle`.  For the I/O thread."""

    __slots__ = ("_args", "_callback", "_transport")

    def __init__(
        self, transport: Transport, callback: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        super().__init__(CALLING)
        self._transport = transport
        self._callback: Callable[..., object] | None = callback
        self._args = args

    def cancel(self) -> None:
        """Do not call."""
        if self.phase == CALLING:
            self._forget()
            self._transport.streams.poller.timers.cancel(self)

    def cancelled(self) -> bool:
        """Whether the call was cancelled, or has been made."""
        return self._callback is None

    def run(self) -> None:
        """Call, unless the call was cancelled or the connection is lost."""
        callback, args = self._callback, self._args
        self._forget()
        if callback and not self._transport.lost:
            streams = self._transport.streams
            echoed_before = streams.clients.echoed
            streams.call(self._transport, callback, *args)
            if streams.clients.echoed != echoed_before:
                streams.clients.report_activity()

    def _forget(self) -> None:
        self.phase = GONE
        self._callback, self._args = None, ()


class SocketInfo:
    """The part of a socket that a handler may use: it can neither read nor close."""

    __slots__ = (
        "family",
        "fileno",
        "getpeername",
        "getsockname",
        "getsockopt",
        "proto",
        "setsockopt",
        "type",
    )

    def __init__(self, sock: socket) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(sock, name))


def _as_bytes_like(data: Any) -> Any:
    if not isinstance(data, _BYTES_LIKE):
        raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
    # Of a view, the length counts items.
    if isinstance(data, memoryview):
        return data.cast("B") if data.c_contiguous else bytes(data)
    return data
