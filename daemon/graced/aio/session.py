"""A session: a client with the transport, and the protocol or coroutine, that serve it.

A transport closes its socket at the end, whatever protocol it has by then: so the server learns of
the end of a session.  But the figures of the kernel, the lingering close and the handover need a
descriptor that nobody else closes.  So the socket of asyncio's transport is only *lent*: its
`close` reports the end, and the server closes.  uvloop closes descriptors itself, and gets a copy.

At rest
    A client is at rest when nothing that was received is unanswered, the server spoke last or
    nothing was ever said, everything is sent, and it has been quiet for the gap.  The kernel knows
    most of it (`graced.sockets.tcp_info`); of a Unix socket it knows nothing, so there the calls of
    the transport are noted.  A coroutine waits for its client where its reader waits with nothing
    in its buffer.  A protocol waits for its client unless it waits for something else: an executor,
    or a timed call that may be the next part of an answer.  That is one that was asked for since
    the client has last spoken, for soon: a ping each 20 seconds is no part of an answer.
"""

from __future__ import annotations

import os
import socket
from contextvars import Context
from functools import partial
from time import monotonic
from weakref import WeakKeyDictionary

from graced.loop.phase import INPUT_ENDED, NOT_TOLD
from graced.loop.policy import LONGEST_PAUSE
from graced.sockets.closing import is_at_its_end
from graced.sockets.tcp_info import is_broken, spoke_last, tcp_info
from graced.sockets.unread import unread

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Any

    from graced.loop.client import Client

_JIFFY = 0.02
"""Seconds by which the kernel's times may be late."""
_LATE = 0.3
"""Seconds by which a timed call may be late: nobody says whether it has been made."""


class LentSocket(socket.socket):
    """A socket that a transport of asyncio uses and does not close."""

    __slots__ = ("is_shut", "on_closed", "peer")

    def __init__(self, sock: socket.socket, on_closed: Callable[[], None]) -> None:
        """Take over the descriptor of `sock`."""
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self.on_closed: Callable[[], None] | None = on_closed
        self.peer: Any = None
        """The address of the client that its proxy has told; None: there is no proxy."""
        self.is_shut = False
        """Whether the transport has sent end of file."""

    def getpeername(self) -> Any:
        """The address of the client, for ``get_extra_info("peername")`` of the transport."""
        return super().getpeername() if self.peer is None else self.peer

    def close(self) -> None:
        """Report, once, that the transport has closed the connection."""
        on_closed, self.on_closed = self.on_closed, None
        if on_closed:
            on_closed()

    def taken_back(self) -> socket.socket:
        """The same descriptor as a socket that can be closed."""
        return socket.socket(self.family, self.type, self.proto, self.detach())

    def shutdown(self, how: int) -> None:
        """Send end of file, as asyncio does for `write_eof`."""
        self.is_shut = True
        super().shutdown(how)


class CopiedSocket(socket.socket):
    """A copy of a descriptor for uvloop, which closes it and then detaches the socket."""

    __slots__ = ("on_closed",)

    def __init__(self, sock: socket.socket, on_closed: Callable[[], None]) -> None:
        """Raises `OSError` where there is no descriptor left."""
        super().__init__(sock.family, sock.type, sock.proto, os.dup(sock.fileno()))
        self.on_closed: Callable[[], None] | None = on_closed

    def close(self) -> None:
        """Close the copy and report it, once."""
        super().close()
        self._report()

    def detach(self) -> int:
        """Forget the descriptor, which is closed, and report it, once."""
        fd = super().detach()
        self._report()
        return fd

    def _report(self) -> None:
        on_closed, self.on_closed = self.on_closed, None
        if on_closed:
            on_closed()


class NotingSocket(LentSocket):
    """A lent Unix socket of which the last read or write is known."""

    __slots__ = ("last_activity", "read_at", "spoke_last", "written")

    def __init__(self, sock: socket.socket, on_closed: Callable[[], None]) -> None:
        super().__init__(sock, on_closed)
        self.last_activity = self.read_at = monotonic()
        self.spoke_last = True
        """Whether a write came after the last read, or nothing was ever said."""
        self.written = 0
        """Bytes, those of earlier processes included."""

    def recv(self, *args: Any) -> bytes:
        data = super().recv(*args)
        self._note_read(len(data))
        return data

    def recv_into(self, *args: Any) -> int:
        length = super().recv_into(*args)
        self._note_read(length)
        return length

    def _note_read(self, length: int) -> None:
        if length:
            self.last_activity = self.read_at = monotonic()
            self.spoke_last = False

    def send(self, *args: Any) -> int:
        return self._note_written(super().send(*args))

    def sendmsg(self, *args: Any) -> int:
        return self._note_written(super().sendmsg(*args))

    def _note_written(self, length: int) -> int:
        if length:
            self.last_activity = monotonic()
            self.written += length
            self.spoke_last = True
        return length


class Session:
    """A client on the loop.  For the thread of the loop, except `silence`, `written` and `cut`."""

    def __init__(
        self, client: Client, post: Callable[..., None], tell: Callable[..., None]
    ) -> None:
        """`post` calls a function in the loop; `tell` tells a client when it is at rest."""
        self.client = client
        self._post = post
        self._tell = tell
        self.sock = client.sock
        """The server's socket; also that of the transport, if it was lent."""
        self.transport: Any = None
        self.protocol: Any = None
        """The handler of the client, if it is a protocol."""
        self.reader: Any = None
        self.writer: Any = None
        """Kept, because from Python 3.13 on one that nobody has closes the connection by itself."""
        self.task: asyncio.Task[Any] | None = None
        """The coroutine of the client, if its handler is one."""
        self.context = Context()
        """The context of the client's code, once it is opened."""
        self.opening: asyncio.Task[Any] | None = None
        """Makes the transport."""
        self.executing = 0
        """Calls of an executor that have not returned."""
        self.reason = ""
        """The reason in the log for the end; empty: the connection is not over."""
        self.is_open = False
        """Whether the transport has its descriptor."""
        self.is_frozen = False
        self.is_held = False
        """Whether the client is not read until the state of all handlers is restored."""
        self.hold: tuple[int, float] | None = None
        """While the client is not read before the farewell: bytes written by then, and since when.
        """
        self.is_unread = False
        """Whether the client is not read because the farewell stands alone."""
        self.read_at: float | None = None
        """Monotonic time at which the client is read again, after the farewell."""
        self.lingers = False
        self.progress = (-1, 0.0)
        """Bytes written while some are unsent, and since when; see `stalls`."""
        self._lent: LentSocket | None = None
        self._noted: NotingSocket | None = None
        self._timers: WeakKeyDictionary[Any, float] | None = None
        """Timed calls, and when they were asked for."""

    def open(self, on_closed: Callable[[], None], *, lend: bool) -> socket.socket:
        """The socket for a transport of asyncio (`lend`) or uvloop.

        Raises `OSError` where there is no descriptor left.
        """
        if not lend:
            made: socket.socket = CopiedSocket(self.sock, on_closed)
        else:
            is_unix = self.sock.family == socket.AF_UNIX
            made = self._lent = (NotingSocket if is_unix else LentSocket)(self.sock, on_closed)
            self._lent.peer = self.client.peer if self.client.header else None
            self._noted = self._lent if isinstance(self._lent, NotingSocket) else None
            if self._noted:
                self._noted.written = self.client.echoed
            self.sock = self.client.sock = made
        self.is_open = True
        return made

    def resume_reading(self) -> None:
        """Let the transport read again: in the context of the client, which its callbacks get.

        asyncio calls them in the context of whoever has asked it to read.
        """
        self.context.run(self.transport.resume_reading)

    def take_back(self) -> None:
        """Take the descriptor from the transport, for the next owner of the client."""
        self.is_open = False
        if self._lent:
            self._lent.on_closed = None
            self.sock = self.client.sock = self._lent.taken_back()

    def note_activity(self) -> None:
        """Note in the client what the next process has to know of the bytes so far."""
        self.client.echoed = self.written
        info = tcp_info(self.sock, self.client.header)
        heard = not self._noted.spoke_last if self._noted else info is not None and info.received
        if heard or self.client.echoed:
            self.client.last = monotonic() - self.silence

    def close(self) -> None:
        """Close the connection, which the transport has closed."""
        self.client.echoed = self.written
        self.take_back()
        self.sock.close()

    def abort(self, reason: str) -> None:
        """Break the connection off; `reason` is for the log, unless it is over anyway."""
        if self.transport:
            self.reason = self.reason or reason
            self.transport.abort()

    def tell(self) -> None:
        """Tell the client when it is at rest.  Any thread may call."""
        self._post(partial(self._tell, self))

    def cut(self, reason: str) -> None:
        """The same, for any thread."""
        self._post(partial(self.abort, reason))

    # The work of the client's code.

    def note_timer(self, handle: Any) -> None:
        """Note a timed call that code of this client has asked for."""
        if self._timers is None:
            self._timers = WeakKeyDictionary()
        self._timers[handle] = monotonic()

    def note_return(self, _future: Any) -> None:
        """Note that a call of an executor has returned."""
        self.executing -= 1

    def works(self, until: float) -> bool:
        """Whether an executor works, or a part of an answer may be due before `until`."""
        if self.executing or not self._timers:
            return bool(self.executing)
        heard = self._heard_at - _JIFFY
        due = monotonic() - _LATE
        return any(
            due <= handle.when() < min(until, asked + LONGEST_PAUSE)
            for handle, asked in self._timers.items()
            if asked >= heard and not handle.cancelled()
        )

    @property
    def _heard_at(self) -> float:
        """Monotonic time of the last byte of the client, or of the beginning."""
        if self._noted:
            return self._noted.read_at
        info = tcp_info(self.sock, self.client.header)
        return monotonic() - info.received_ago if info else 0.0

    # The state of the client.

    @property
    def silence(self) -> float:
        """Seconds since a byte was sent or received.  Any thread may ask."""
        if self._noted:
            return monotonic() - self._noted.last_activity
        info = tcp_info(self.sock, self.client.header)
        return info.silence if info else 0.0

    @property
    def written(self) -> int:
        """Bytes that were written to the client so far."""
        if self._noted:
            return self._noted.written
        info = tcp_info(self.sock, self.client.header)
        return info.written if info else 0

    @property
    def is_answered(self) -> bool:
        """Whether the server spoke last, or nothing was ever said."""
        if self.transport.get_write_buffer_size():
            return False
        if self._noted:
            return self._noted.spoke_last
        info = tcp_info(self.sock, self.client.header)
        return info is not None and spoke_last(self.sock, info)

    @property
    def is_pending(self) -> bool:
        """Whether bytes have not arrived that were written to the client."""
        info = tcp_info(self.sock, self.client.header)
        return bool(self.transport.get_write_buffer_size() or (info and info.pending))

    def is_at_rest(self, until: float) -> bool:
        """Whether the client may be told, once it was quiet and has everything.

        `until`: the monotonic time from which on a timed call is no part of an answer.
        """
        transport = self.transport
        if transport is None or transport.is_closing() or not self.is_answered:
            return False
        if transport.is_reading() and unread(self.sock):
            return False
        if self.reader is None:
            return not self.works(until)
        waits: bool = self.reader._waiter is not None and not self.reader._buffer
        return waits

    def stalls(self, timeout: float) -> bool:
        """Whether the client has taken none of its unsent bytes for `timeout` seconds."""
        if not self.transport or not self.transport.get_write_buffer_size():
            self.progress = (-1, 0.0)
            return False
        now, written = monotonic(), self.written
        if written != self.progress[0]:
            self.progress = (written, now)
        return now - self.progress[1] >= timeout

    @property
    def may_move(self) -> bool:
        """Whether the handler of our class still has the connection, both ways."""
        transport = self.transport
        return (
            self.is_open
            and not (self.executing or transport.is_closing())
            and transport.get_protocol() is self.protocol
            and not is_half_closed(self.sock)
        )

    @property
    def unsent(self) -> bytes | None:
        """The write buffer; None where only the transport knows it, as that of uvloop."""
        size = self.transport.get_write_buffer_size()
        if not size:
            return b""
        buffer = getattr(self.transport, "_buffer", None)
        if buffer is None:
            return None
        # One bytearray of Python 3.11, a queue of parts since.
        held = bytes(buffer) if isinstance(buffer, bytearray) else b"".join(buffer)
        return held if len(held) == size else None

    def found_reason(self) -> str:
        """The reason in the log, of a connection that the transport has closed.

        A connection that both sides have ended looks as one that was reset.  Whether our side has
        is not known of uvloop.
        """
        if self._lent and not self._lent.is_shut and is_broken(self.sock):
            return "reset by the client"
        if self.client.told == INPUT_ENDED:
            return "at rest"
        if is_at_its_end(self.sock):
            return "closed by the client"
        return "closed by the handler"

    @property
    def is_told(self) -> bool:
        """Whether the client knows that the server is going offline."""
        return self.client.told != NOT_TOLD


def is_half_closed(sock: socket.socket) -> bool:
    """Whether one side has sent end of file, or the connection is over."""
    if sock.family == socket.AF_UNIX:
        return is_at_its_end(sock)
    info = tcp_info(sock)
    return info is None or not info.established
