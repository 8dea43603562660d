"""What a blocking handler talks to its client with: a socket that leaves room for the farewell.

The handler reads and writes whenever it likes, in its own thread, so the server cannot schedule
the farewell; but it can take turns.  Each write of the handler holds a lock, and the farewell is
sent by whoever finds the lock free first: the server when the handler waits for its client, or
the handler's own thread between two of its calls.  It is never inside one of its writes.  Around
it is the same gap as for any client (see `graced.io_thread`): the handler's reads wait before and
after it.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

SERVED = 0
DUE = 1
"""To be told as soon as it has been quiet for the gap."""
OVERDUE = 2
"""To be told after the next write, quiet or not."""
TOLD = 3
"""What it says next waits for the gap."""
HEARD = 4


class StalledError(ConnectionAbortedError):
    """The client has taken nothing for the stall timeout."""


class Conversation(socket.socket):
    """A connected stream socket whose other end can be told the farewell at any time.

    `tell` may be called by any thread; the rest is the handler's.
    """

    __slots__ = ("_farewell", "_gap", "_rest", "_stage", "_writing", "last", "moved")

    def __init__(self, sock: socket.socket, farewell: bytes, gap: float, *, told: bool) -> None:
        """Take over the descriptor of `sock`.  `gap` in seconds.  `told`: the client has had its
        farewell already, before there was a handler."""
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self.moved = 0
        """Bytes that the handler has written."""
        self._farewell = farewell
        self._rest = farewell
        self._gap = gap
        self._stage = HEARD if told else SERVED
        self.last = time.monotonic()
        """When something was said, by either side (monotonic)."""
        self._writing = threading.RLock()

    # The server's side.

    def tell(self, *, insist: bool, patience: float = 0.0) -> None:
        """Send the farewell once, now or soon.

        `insist`: even where the handler has written a moment ago.  `patience`: seconds that a
        write of the handler which is under way may take to end; 0: never block.
        """
        if self._stage >= TOLD or not self._farewell:
            return
        self._stage = OVERDUE if insist else max(self._stage, DUE)
        quiet = time.monotonic() - self.last >= self._gap
        if (quiet or insist) and self._writing.acquire(timeout=patience):
            try:
                self._say_farewell(socket.MSG_DONTWAIT)
            finally:
                self._writing.release()

    def _say_farewell(self, flags: int = 0) -> None:
        if self._stage not in {DUE, OVERDUE}:
            return
        try:
            while self._rest:
                self._rest = self._rest[super().send(self._rest, flags) :]
        except OSError:
            # Full: the rest follows before the handler's next word.  Broken: it will find out.
            return
        self._stage = TOLD

    # The handler's side.

    def _before_reading(self) -> None:
        if self._stage in {DUE, OVERDUE} and self._farewell:
            time.sleep(self._gap)
            with self._writing:
                self._say_farewell()

    def _after_reading(self) -> None:
        if self._stage == TOLD:
            self._stage = HEARD
            time.sleep(self._gap)

    def _read(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._stage:
            self._before_reading()
        result = call(*args, **kwargs)
        self.last = time.monotonic()
        if self._stage and result:
            self._after_reading()
        return result

    def _write(self, call: Callable[..., Any], *args: Any) -> Any:
        with self._writing:
            if len(self._rest) != len(self._farewell):
                self._say_farewell()
            try:
                result = call(*args)
            except BlockingIOError as error:
                if self.gettimeout() is not None or socket.MSG_DONTWAIT in args:
                    raise
                # A blocking socket says so when SO_SNDTIMEO is over.
                raise StalledError(errno.ECONNABORTED, "the client takes nothing") from error
            self.last = time.monotonic()
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
        self.moved += sent
        return sent

    def sendall(self, data: Any, *args: Any) -> None:
        self._write(super().sendall, data, *args)
        self.moved += memoryview(data).nbytes

    def sendmsg(self, *args: Any) -> int:
        sent = int(self._write(super().sendmsg, *args))
        self.moved += sent
        return sent

    def sendfile(self, *args: Any, **kwargs: Any) -> int:
        before = self.moved
        sent = int(self._write(partial(super().sendfile, *args, **kwargs)))
        self.moved = before + sent
        return sent

    def dup(self) -> socket.socket:  # type: ignore[override]
        """A plain socket: the farewell does not know of its writes."""
        return socket.socket(self.family, self.type, self.proto, os.dup(self.fileno()))
