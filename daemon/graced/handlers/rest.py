"""At rest: whether the server may say goodbye to the client of a blocking handler.

A client is *at rest* when nothing that was received is unanswered, the server spoke last or nothing
was ever said, and the connection has been quiet for the gap.  How each part is known:

Who spoke last
    From the drain on the calls of the handler are noted: `NotedSocket`.  Of the time before, the
    kernel knows the last moments of both directions (`graced.sockets.tcp_info`).  Of a Unix socket
    the kernel knows nothing, so its calls are noted from the beginning.
Is anything unread, or unsent?
    FIONREAD; TCP_INFO.  What the handler's own file (``rfile``) has read ahead is looked at after
    each answer.  If a file had the beginning of a request in it when the drain began, and the
    handler waited for the rest, nobody can know: then the client counts as at rest.
Was that an answer?
    ``100 Continue`` of HTTP is none: `graced.handlers.interim` knows handlers of `http.server`.
Does the handler wait for its client?
    A handler may pause between two writes of one answer.  Bytes of our own must not come between
    them; so these are sent only while the handler is in a read, which is noted, or which the kernel
    shows (`graced.sockets.blocked_read`).
"""

from __future__ import annotations

import errno
import io
import socket
import threading
import weakref
from functools import partial
from threading import get_ident
from time import monotonic

from graced.frames import current_frames
from graced.handlers.interim import awaits_body
from graced.sockets.blocked_read import waits_for_input
from graced.sockets.tcp_info import TcpInfo, spoke_last, tcp_info
from graced.sockets.unread import unread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

ANY_THREAD = threading.Thread(name="any thread")
"""In place of a thread, never started: the program has not said which thread reads and writes."""
_NOTHING, _READ, _WRITTEN = range(3)
"""The last call of the handler that moved a byte, since calls are noted."""


class NotedSocket(socket.socket):
    """A connected stream socket of which the last read or write is known.

    The calls of a socket are for the handler's thread.  The server's threads, whichever, use the
    properties.
    """

    __slots__ = (
        "_counted",
        "_last",
        "_last_activity",
        "_peeking",
        "_reader",
        "_reading",
        "_to_read",
        "_write_lock",
        "_written_at_read",
        "header",
        "thread",
    )

    def __init__(self, sock: socket.socket) -> None:
        """Take over the descriptor of `sock`."""
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self.thread: threading.Thread | None = None
        """The handler's thread; None before the handler has started.

        `ANY_THREAD`: unknown, maybe there is none yet."""
        self.header = 0
        """See `graced.loop.client.Client`."""
        self._last = _NOTHING
        self._written_at_read = 0
        """Bytes that were written when the handler last read."""
        self._last_activity = monotonic()
        self._reading = 0
        """The identity of the thread in a read that is noted; 0: none is under way."""
        self._reader: weakref.ref[Any] | None = None
        """The file from which the handler reads, if any."""
        self._peeking = False
        """Whether reads return nothing, because we look at what `_reader` has read ahead."""
        self._to_read: int | None = None
        """Bytes that had arrived when the drain began, and that the handler has not read yet.

        None before."""
        self._counted = 0
        """Bytes that the handler has written, where the kernel does not count them."""
        self._write_lock = threading.RLock()

    @property
    def silence(self) -> float:
        """Seconds since a byte was sent or received."""
        info = tcp_info(self, self.header)
        return info.silence if info else monotonic() - self._last_activity

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing received is unanswered and the server spoke last, for however long."""
        return self._is_answered(tcp_info(self, self.header)) and not unread(self)

    @property
    def handler_waits(self) -> bool:
        """Whether the handler waits for its client in a read, or has not started.

        A read of another thread, as that of a chat, says nothing of what the handler does.
        """
        if self.thread is None or self._reading == self.thread.ident:
            return True
        if self.thread is not ANY_THREAD:
            return waits_for_input(self.thread.native_id or 0, self.fileno())
        info = tcp_info(self, self.header)
        if self._reading or not (info.written if info else self._last):
            return True
        threads = [thread.native_id for thread in threading.enumerate()]
        return any(waits_for_input(each, self.fileno()) for each in threads if each)

    def _is_answered(self, info: TcpInfo | None) -> bool:
        """Whether the server spoke last, and the client has all of it."""
        if not self._spoke_last(info) or (info and info.pending):
            return False
        # The handler may have read by another way since: through a duplicate, for example.
        if info and info.received and info.received_ago < info.sent_ago:
            return False
        return not self._has_interim_answer

    @property
    def _has_interim_answer(self) -> bool:
        """Whether the server spoke in the middle of a request, as far as can be seen."""
        if self.thread is ANY_THREAD:
            return awaits_body(current_frames())
        return self.thread is not None and awaits_body([self.thread.ident or 0])

    def _spoke_last(self, info: TcpInfo | None) -> bool:
        """Whether the handler has written since it last read."""
        if info and (self._last == _NOTHING or self._has_written_unseen(info)):
            return spoke_last(self, info)
        return self._last != _READ

    def _has_written_unseen(self, info: TcpInfo) -> bool:
        """Whether a write since the last read was not noted.

        A handler may have kept the method ``sendall`` from before the drain, or write to the
        descriptor.
        """
        return self._last == _READ and info.written != self._written_at_read

    @property
    def _has_answered(self) -> bool:
        """Whether all that the handler has read is answered; for the handler's thread."""
        spoke_last = self._spoke_last(
            None if self._last == _WRITTEN else tcp_info(self, self.header)
        )
        return spoke_last and not self._has_interim_answer

    # Noting.

    def _before_reading(self) -> None:
        """Called before each read that is noted."""

    def _before_writing(self) -> None:
        """Called before each write that is noted, with the lock."""

    def _read(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._peeking:
            raise BlockingIOError(errno.EAGAIN, "not a read of the handler")
        self._before_reading()
        to_read_before = self._to_read
        self._reading = get_ident()
        try:
            result = call(*args, **kwargs)
        finally:
            self._reading = 0
        self._last_activity = monotonic()
        length = _length(result)
        if length:
            self._note_read()
            if to_read_before is not None:
                self._to_read = max(0, to_read_before - length)
            elif self._to_read is not None:
                # The drain has begun since, when these bytes were read or were not.
                self._to_read = unread(self)
        return result

    def _write(self, call: Callable[..., Any], *args: Any) -> Any:
        with self._write_lock:
            self._before_writing()
            result = call(*args)
            self._last_activity = monotonic()
            written = memoryview(args[0]).nbytes if result is None else result
            if written and self._has_read_ahead():
                self._note_read()
            elif written:
                self._last = _WRITTEN
        return result

    def _note_read(self) -> None:
        info = tcp_info(self, self.header)
        self._written_at_read = info.written if info else 0
        self._last = _READ

    def recv(self, *args: Any) -> bytes:
        return bytes(self._read(super().recv, *args))

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        return int(self._read(super().recv_into, *args, **kwargs))

    def recvmsg(self, *args: Any) -> Any:
        return self._read(super().recvmsg, *args)

    def recvmsg_into(self, *args: Any) -> Any:
        return self._read(super().recvmsg_into, *args)

    def recvfrom(self, *args: Any) -> Any:
        return self._read(super().recvfrom, *args)

    def recvfrom_into(self, *args: Any, **kwargs: Any) -> Any:
        return self._read(super().recvfrom_into, *args, **kwargs)

    def send(self, data: Any, *args: Any) -> int:
        sent = int(self._write(super().send, data, *args))
        self._counted += sent
        return sent

    def sendall(self, data: Any, *args: Any) -> None:
        self._write(super().sendall, data, *args)
        self._counted += memoryview(data).nbytes

    def sendmsg(self, *args: Any) -> int:
        sent = int(self._write(super().sendmsg, *args))
        self._counted += sent
        return sent

    def sendfile(self, *args: Any, **kwargs: Any) -> int:
        before = self._counted
        sent = int(self._write(partial(super().sendfile, *args, **kwargs)))
        # `sendfile` of the base class may have called `send`, which counts too.
        self._counted = before + sent
        return sent

    # Reading ahead.

    def makefile(self, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        """As of `socket.socket`; a reader is remembered."""
        file = super().makefile(mode, *args, **kwargs)  # type: ignore[call-overload]
        reader = getattr(file, "buffer", file)
        if isinstance(reader, io.BufferedReader):
            self._reader = weakref.ref(reader)
        return file

    @property
    def _looks_for_read_ahead(self) -> bool:
        """Whether it matters what `_reader` has read ahead."""
        return False

    def _has_read_ahead(self) -> bool:
        """Whether `_reader` has bytes that the handler has not looked at.

        After an answer such bytes are the next request, or its beginning.
        """
        reader = self._reader() if self._reader and self._looks_for_read_ahead else None
        if reader is None or not self._is_read_by_nobody:
            return False
        self._peeking = True
        try:
            return bool(reader.peek())
        except (OSError, ValueError):
            # The handler has closed the file, or a read of it has timed out before.
            return False
        finally:
            self._peeking = False

    @property
    def _is_called_by_handler(self) -> bool:
        return self.thread is None or self.thread.ident == get_ident()

    @property
    def _is_read_by_nobody(self) -> bool:
        """Whether no other thread is in a read of `_reader`, for whose lock we would wait.

        Reads that began before the drain are not noted; such a thread is found by its frame.
        """
        if self._reading or not self._is_called_by_handler:
            return False
        return not any(
            frame.f_code is socket.SocketIO.readinto.__code__
            and getattr(frame.f_locals.get("self"), "_sock", None) is self
            for frame in current_frames().values()
        )


def _length(received: Any) -> int:
    """The bytes of the result of a read: a number, bytes, or a tuple that begins with either."""
    first = received[0] if isinstance(received, tuple) else received
    return first if isinstance(first, int) else len(first)
