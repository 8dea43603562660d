"""The socket that a blocking handler gets, which leaves room for the farewell.

A handler reads and writes whenever it likes, in its own thread.  So the server cannot schedule the
farewell; but handler and server can take turns.  Each write of the handler holds a lock, and the
farewell is sent by the first thread that finds the lock free: a thread of the server while the
handler waits for its client, or the handler's thread between two of its calls.  The farewell is
never inside a write of the handler.  Reads of the handler wait for the gap before the farewell,
writes wait for the gap after it (`graced.loop.io_thread` says why).  The stages are::

    ACTIVE ──drain──▶ FAREWELL_PENDING ──gap──▶ FAREWELL_SENT ──write──▶ ANSWERED
                             └──▶ FAREWELL_OVERDUE ──write──▲

Before the drain none of this is needed, and the lock would cost a quarter of the round trips of all
handlers: each microsecond of Python between two system calls is a microsecond in which the other
threads wait for the GIL.  So a TCP connection begins as a `DirectSocket`, whose calls are those of
`socket.socket`; the kernel has the times and counters that are needed later (TCP_INFO).  The class
of the object changes when the drain begins, or when the handler is frozen for a handover::

    DirectSocket ──send_farewell──▶ HandlerSocket
         └────────freeze────▶ FreezingSocket ◀──freeze──┘
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from contextlib import suppress
from functools import partial
from time import monotonic, sleep

from graced.sockets.closing import is_at_its_end
from graced.sockets.tcp_info import tcp_info

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Stage:
    """The progress of the farewell on one connection, as a number that only grows.

    Plain numbers: a comparison is made for each read and write of a Unix socket.
    """

    ACTIVE = 0
    """No farewell is due."""
    FAREWELL_PENDING = 1
    """The farewell is due as soon as the connection has been quiet for the gap."""
    FAREWELL_OVERDUE = 2
    """The farewell is due after the next write of the handler, without a gap."""
    FAREWELL_SENT = 3
    """The client has the farewell; the next write of the handler waits for the gap."""
    ANSWERED = 4
    """The handler has written after the farewell, and is served as before."""


_DUE = frozenset({Stage.FAREWELL_PENDING, Stage.FAREWELL_OVERDUE})
_FIRST_OF_64_BITS = 66
"""SO_RCVTIMEO_NEW of asm-generic/socket.h: options from this number on take 64-bit times."""


def set_timeout(sock: socket.socket, option: int, seconds: float) -> None:
    """Set SO_RCVTIMEO or SO_SNDTIMEO, socket(7); 0: no timeout.  Raises `OSError`."""
    whole, rest = divmod(seconds, 1.0)
    format = "qq" if option >= _FIRST_OF_64_BITS else "ll"
    timeval = struct.pack(format, int(whole), round(rest * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, option, timeval)


class FreezeInterrupt(BaseException):
    """Raised by a new read of a frozen handler, which is to save its state instead of reading.

    A `BaseException`, so that an ``except Exception`` of the handler lets it pass.  A read that was
    waiting already raises `BlockingIOError`, which an ``except OSError`` would swallow.
    """


class HandlerSocket(socket.socket):
    """A connected stream socket on which the server can send the farewell at any time.

    Any thread may call `send_farewell`, `freeze` and `thaw`, and read `silence`; everything else is
    for the handler's thread.
    """

    __slots__ = (
        "_counted",
        "_farewell",
        "_gap",
        "_last_activity",
        "_may_write_unlocked",
        "_stage",
        "_unsent",
        "_write_lock",
        "_written_before",
        "saved",
    )

    def __init__(self, sock: socket.socket, farewell: bytes, gap: float, *, told: bool) -> None:
        """Take over the descriptor of `sock`.

        `gap`: seconds.  `told`: whether the client had the farewell before it had a handler.
        """
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self.saved: bytes | None = None
        """The saved state of a handler, on the way from one process to the next."""
        info = tcp_info(self)
        self._written_before = info.written if info else 0
        self._counted = 0
        """Bytes that the handler has written, where the kernel does not count them."""
        self._farewell = farewell
        self._unsent = farewell
        """The end of the farewell that the kernel has not taken yet."""
        self._gap = gap
        self._stage = Stage.ANSWERED if told else Stage.ACTIVE
        self._last_activity = monotonic()
        self._may_write_unlocked = False
        """Whether a write may not have ended yet that began without the lock (`DirectSocket`)."""
        self._write_lock = threading.RLock()
        if info and not told:
            self.__class__ = DirectSocket

    @property
    def silence(self) -> float:
        """Seconds since a byte was sent or received.  Any thread may read."""
        info = tcp_info(self)
        return info.silence if info else monotonic() - self._last_activity

    @property
    def written(self) -> int:
        """Bytes that the handler has written, the farewell not included."""
        with self._write_lock:
            info = tcp_info(self)
            if info is None:
                return self._counted
            farewell = len(self._farewell) - len(self._unsent)
            return info.written - self._written_before - farewell

    # For the server.

    def freeze(self) -> None:
        """Let the handler's next read raise `FreezeInterrupt`, a present read `BlockingIOError`.

        Any thread may call.  The present read ends when a signal interrupts the thread.
        """
        self.__class__ = FreezingSocket
        self._limit_reads(microseconds=1)

    def thaw(self) -> None:
        """Let the handler go on in this process.  Any thread may call."""
        self._may_write_unlocked = True
        self.__class__ = HandlerSocket
        self._limit_reads(microseconds=0)

    def _limit_reads(self, microseconds: int) -> None:
        # A socket that the handler has closed needs no limit.
        with suppress(OSError):
            set_timeout(self, socket.SO_RCVTIMEO, microseconds / 1_000_000)

    @property
    def freezing(self) -> bool:
        """Whether the handler is to save its state at its next read."""
        return type(self) is FreezingSocket

    def send_farewell(self, *, insist: bool, timeout: float = 0.0) -> None:
        """Send the farewell once: now, or as soon as possible.  Any thread may call.

        `insist`: send even if the handler has written a moment ago.  `timeout`: seconds to wait for
        the end of a write that has begun; 0: do not wait.
        """
        if self._stage >= Stage.FAREWELL_SENT or not self._farewell:
            return
        if type(self) is DirectSocket:
            self._may_write_unlocked = True
            self.__class__ = HandlerSocket  # type: ignore[assignment]
        self._stage = Stage.FAREWELL_OVERDUE if insist else max(self._stage, Stage.FAREWELL_PENDING)
        quiet = self.silence >= self._gap
        if self._may_write_unlocked:
            # A write that waits for room has bytes pending, and a write whose thread waits for the
            # GIL has sent bytes a moment ago; any other write takes no time.
            info = tcp_info(self)
            self._may_write_unlocked = (
                info is None or info.pending or (not timeout and info.sent_ago < self._gap)
            )
        if self._may_write_unlocked or not (quiet or insist):
            return
        if self._write_lock.acquire(timeout=timeout):
            try:
                self._write_farewell(self._send_without_waiting)
            finally:
                self._write_lock.release()

    def _write_farewell(self, send: Callable[[bytes], int] | None = None) -> None:
        if self._stage not in _DUE:
            return
        try:
            while self._unsent:
                self._unsent = self._unsent[(send or super().send)(self._unsent) :]
        except OSError:
            # Where the buffer is full, the rest is sent before the handler's next write.  Where the
            # connection is broken, the handler's next call fails.
            return
        self._stage = Stage.FAREWELL_SENT

    def _send_without_waiting(self, data: bytes) -> int:
        if self.gettimeout() is None:
            return super().send(data, socket.MSG_DONTWAIT)
        # With a timeout Python would wait for room first, whatever the flags are; the descriptor is
        # in non-blocking mode then.
        return os.write(self.fileno(), data)

    # For the handler.

    def send_farewell_at_end(self) -> None:
        """Send the farewell when the handler has returned, unless sent already or useless.

        Sleeps until the connection has been quiet for the gap.
        """
        self._may_write_unlocked = False
        if self._stage < Stage.FAREWELL_SENT and self._farewell and not is_at_its_end(self):
            sleep(max(0.0, self._gap - self.silence))
            with self._write_lock:
                self._stage = max(self._stage, Stage.FAREWELL_PENDING)
                self._write_farewell(self._send_without_waiting)

    def _before_reading(self) -> None:
        self._may_write_unlocked = False
        if self._stage in _DUE and self._farewell:
            sleep(self._gap)
            with self._write_lock:
                self._write_farewell()

    def _before_writing(self) -> None:
        self._may_write_unlocked = False
        if len(self._unsent) != len(self._farewell):
            self._write_farewell()
        if self._stage == Stage.FAREWELL_SENT:
            self._stage = Stage.ANSWERED
            sleep(self._gap)

    def _read(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._before_reading()
        result = call(*args, **kwargs)
        self._last_activity = monotonic()
        return result

    def _write(self, call: Callable[..., Any], *args: Any) -> Any:
        with self._write_lock:
            self._before_writing()
            result = call(*args)
            self._last_activity = monotonic()
            if self._stage == Stage.FAREWELL_OVERDUE:
                self._write_farewell()
        return result

    def recv(self, *args: Any) -> bytes:
        return bytes(self._read(super().recv, *args))

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        return int(self._read(super().recv_into, *args, **kwargs))

    def recvmsg(self, *args: Any) -> Any:
        return self._read(super().recvmsg, *args)

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

    def dup(self) -> socket.socket:  # type: ignore[override]
        """Duplicate the socket, as a plain socket: its writes and the farewell take no turns."""
        return socket.socket(self.family, self.type, self.proto, os.dup(self.fileno()))

    def detach(self) -> int:
        self._counted = self.written
        return super().detach()

    def _real_close(self) -> None:
        self._counted = self.written
        super()._real_close()  # type: ignore[misc]


class FreezingSocket(HandlerSocket):
    """The socket of a handler that is to save its state, and go on in the next process."""

    __slots__ = ()

    def _before_reading(self) -> None:
        raise FreezeInterrupt


class DirectSocket(HandlerSocket):
    """The socket of a handler before the drain: the calls are those of `socket.socket`."""

    __slots__ = ()

    recv = socket.socket.recv
    recv_into = socket.socket.recv_into
    recvmsg = socket.socket.recvmsg
    send = socket.socket.send  # type: ignore[assignment]
    sendall = socket.socket.sendall  # type: ignore[assignment]
    sendmsg = socket.socket.sendmsg
    sendfile = socket.socket.sendfile
