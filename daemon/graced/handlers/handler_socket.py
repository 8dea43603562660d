"""What a blocking handler talks to its client with: a socket that leaves room for the farewell.

The handler reads and writes whenever it likes, in its own thread, so the server cannot schedule
the farewell; but it can take turns.  Each write of the handler holds a lock, and the farewell is
sent by whoever finds the lock free first: the server when the handler waits for its client, or
the handler's own thread between two of its calls.  It is never inside one of its writes.  Around
it is the same gap as for any client (see `graced.loop.io_thread`): the handler's reads wait before
it, its writes after it.

None of this is needed before there is a farewell to be said, and it would cost a quarter of all
that threads can echo: each microsecond of Python between two system calls is one in which the
other threads wait for the GIL.  So a TCP conversation begins `Unwatched`, a socket as any other,
of which the kernel knows what has to be known, and changes its class when it is to be told, or
when it is to go on in the next process::

    Unwatched ──tell──▶ HandlerSocket
        └─────move──▶ Moving ◀──move──┘
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

SERVED = 0
DUE = 1
"""To be told as soon as it has been quiet for the gap."""
OVERDUE = 2
"""To be told after the next write, quiet or not."""
TOLD = 3
"""What it says next waits for the gap."""
HEARD = 4


_FIRST_OF_64_BITS = 66
"""SO_RCVTIMEO_NEW of asm-generic/socket.h: from this on, times are 64 bits wide everywhere."""


def set_timeout(sock: socket.socket, option: int, seconds: float) -> None:
    """Set SO_RCVTIMEO or SO_SNDTIMEO, socket(7); 0: none.  Raises `OSError`."""
    whole, rest = divmod(seconds, 1.0)
    format = "qq" if option >= _FIRST_OF_64_BITS else "ll"
    timeval = struct.pack(format, int(whole), round(rest * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, option, timeval)


class MovedError(BaseException):
    """The handler of a moving conversation wanted to read: it is to save its state instead."""


class HandlerSocket(socket.socket):
    """A connected stream socket whose other end can be told the farewell at any time.

    `tell` and `silence` may be used by any thread; the rest is the handler's.
    """

    __slots__ = (
        "_before",
        "_counted",
        "_farewell",
        "_gap",
        "_last",
        "_rest",
        "_stage",
        "_unwatched",
        "_writing",
        "saved",
    )

    def __init__(self, sock: socket.socket, farewell: bytes, gap: float, *, told: bool) -> None:
        """Take over the descriptor of `sock`.

        `gap`: seconds.  `told`: the client has had its farewell before its handler began.
        """
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self.saved: bytes | None = None
        """The state of a handler that goes on in another process, on its way there and back."""
        info = tcp_info(self)
        self._before = info.written if info else 0
        self._counted = 0
        self._farewell = farewell
        self._rest = farewell
        self._gap = gap
        self._stage = HEARD if told else SERVED
        self._last = monotonic()
        self._unwatched = False
        """Whether a write may be under way that began before the lock was asked for."""
        self._writing = threading.RLock()
        if info and not told:
            self.__class__ = Unwatched

    @property
    def silence(self) -> float:
        """Seconds since something was said, by either side."""
        info = tcp_info(self)
        return info.silence if info else monotonic() - self._last

    @property
    def written(self) -> int:
        """Bytes that the handler has written; for its own thread."""
        with self._writing:
            info = tcp_info(self)
            if info is None:
                return self._counted
            return info.written - self._before - len(self._farewell) + len(self._rest)

    # The server's side.

    def move(self) -> None:
        """Have the handler's next read raise `MovedError`, and its present one `BlockingIOError`.

        The latter as soon as a signal wakes it up.
        """
        self.__class__ = Moving
        self._limit_reads(microseconds=1)

    def stay(self) -> None:
        """It does not move after all."""
        self._unwatched = True
        self.__class__ = HandlerSocket
        self._limit_reads(microseconds=0)

    def _limit_reads(self, microseconds: int) -> None:
        with suppress(OSError):
            set_timeout(self, socket.SO_RCVTIMEO, microseconds / 1_000_000)

    @property
    def moving(self) -> bool:
        """Whether it is to go on in another process."""
        return type(self) is Moving

    def tell(self, *, insist: bool, patience: float = 0.0) -> None:
        """Send the farewell once, now or soon.

        `insist`: even where the handler has written a moment ago.  `patience`: seconds that a
        write of the handler which is under way may take to end; 0: never block.
        """
        if self._stage >= TOLD or not self._farewell:
            return
        if type(self) is Unwatched:
            self._unwatched = True
            self.__class__ = HandlerSocket  # type: ignore[assignment]
        self._stage = OVERDUE if insist else max(self._stage, DUE)
        quiet = self.silence >= self._gap
        if self._unwatched:
            # A write that waits for room has bytes before it, and one whose thread waits for the
            # GIL has sent some a moment ago; any other takes no time.
            info = tcp_info(self)
            self._unwatched = (
                info is None or info.pending or (not patience and info.unsaid < self._gap)
            )
        if self._unwatched or not (quiet or insist):
            return
        if self._writing.acquire(timeout=patience):
            try:
                self._say_farewell(self._send_now)
            finally:
                self._writing.release()

    def _say_farewell(self, send: Callable[[bytes], int] | None = None) -> None:
        if self._stage not in {DUE, OVERDUE}:
            return
        try:
            while self._rest:
                self._rest = self._rest[(send or super().send)(self._rest) :]
        except OSError:
            # Full: the rest follows before the handler's next word.  Broken: it will find out.
            return
        self._stage = TOLD

    def _send_now(self, data: bytes) -> int:
        if self.gettimeout() is None:
            return super().send(data, socket.MSG_DONTWAIT)
        # Python would wait for the handler's timeout, whatever the flags say.
        return os.write(self.fileno(), data)

    # The handler's side.

    def part(self) -> None:
        """Tell a client that neither has been told nor has left: its handler has returned."""
        self._unwatched = False
        if self._stage < TOLD and self._farewell and not is_at_its_end(self):
            sleep(max(0.0, self._gap - self.silence))
            with self._writing:
                self._stage = max(self._stage, DUE)
                self._say_farewell(self._send_now)

    def _before_reading(self) -> None:
        self._unwatched = False
        if self._stage in {DUE, OVERDUE} and self._farewell:
            sleep(self._gap)
            with self._writing:
                self._say_farewell()

    def _before_writing(self) -> None:
        self._unwatched = False
        if len(self._rest) != len(self._farewell):
            self._say_farewell()
        if self._stage == TOLD:
            self._stage = HEARD
            sleep(self._gap)

    def _read(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._before_reading()
        result = call(*args, **kwargs)
        self._last = monotonic()
        return result

    def _write(self, call: Callable[..., Any], *args: Any) -> Any:
        with self._writing:
            self._before_writing()
            result = call(*args)
            self._last = monotonic()
            if self._stage == OVERDUE:
                self._say_farewell()
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
        self._counted = before + sent
        return sent

    def dup(self) -> socket.socket:  # type: ignore[override]
        """A plain socket: the farewell does not know of its writes."""
        return socket.socket(self.family, self.type, self.proto, os.dup(self.fileno()))

    def detach(self) -> int:
        self._counted = self.written
        return super().detach()

    def _real_close(self) -> None:
        self._counted = self.written
        super()._real_close()  # type: ignore[misc]


class Moving(HandlerSocket):
    """A conversation that is to go on in the next process, as soon as its handler wants to read."""

    __slots__ = ()

    def _before_reading(self) -> None:
        raise MovedError


class Unwatched(HandlerSocket):
    """A TCP conversation before there is a farewell to be said: a socket and nothing more."""

    __slots__ = ()

    recv = socket.socket.recv
    recv_into = socket.socket.recv_into
    recvmsg = socket.socket.recvmsg
    send = socket.socket.send  # type: ignore[assignment]
    sendall = socket.socket.sendall  # type: ignore[assignment]
    sendmsg = socket.socket.sendmsg
    sendfile = socket.socket.sendfile
