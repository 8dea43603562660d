"""The socket that a blocking handler gets, over which the server can say goodbye at any time.

A handler reads and writes whenever it likes, in its own thread, and speaks a protocol that the
server does not know.  So the server says goodbye only to a client *at rest*
(`graced.handlers.rest`).

Where a farewell is declared, it is sent then, once, and stands alone (`graced.loop.io_thread` says
why): the handler's next write waits for the gap.  Where none is declared, the input of the handler
ends: a read, also one that waits already, returns what has arrived and then end of file, and the
handler finishes in its own words.  The stages are::

    ACTIVE ──drain──▶ PENDING ──at rest──▶ FAREWELL_SENT ──write──▶ ANSWERED
                         └─────at rest──▶ INPUT_ENDED

Before the drain nothing of this is needed, and to note each call of a handler would cost a quarter
of the round trips: each microsecond of Python between two system calls is a microsecond in which
the other threads wait for the GIL.  So a TCP connection begins as a
`DirectSocket`, whose calls are those of `socket.socket`.  The class of the object changes when the
drain begins, or when the handler is frozen for a handover, and calls are noted from then on::

    DirectSocket ──begin_drain──▶ HandlerSocket
         └────────freeze────▶ FreezingSocket ◀──freeze──┘

A read that was waiting when the class changed is looked at from outside, by `say_goodbye`; a new
read says goodbye itself before it waits.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from contextlib import suppress
from weakref import ref

from graced.handlers.goodbye import GoodbyeSocket, Stage
from graced.handlers.lineage import Lineage
from graced.handlers.reader import Reader
from graced.handlers.rest import ANY_THREAD
from graced.sockets.blocked_read import is_known
from graced.sockets.closing import end_both_ways, end_input
from graced.sockets.elsewhere import cookie
from graced.sockets.tcp_info import tcp_info
from graced.sockets.timeout import set_timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


_FREEZE_TIMEOUT = 0.000_001
"""Seconds that a read of a frozen handler waits."""


class FreezeInterrupt(BaseException):
    """Raised by a new read of a frozen handler, which is to save its state instead of reading.

    A `BaseException`, so that an ``except Exception`` of the handler lets it pass.  A read that was
    waiting already raises `BlockingIOError`, which an ``except OSError`` would swallow.
    """


class HandlerSocket(GoodbyeSocket):
    """A connected stream socket over which the server can say goodbye at any time.

    The calls of a socket, and the section "For the handler", are for the handler's thread.  The
    server's threads, whichever, use the rest: the sections "For the server" and the properties.
    """

    __slots__ = (
        "_captured",
        "_class_after",
        "_is_shut",
        "_learn",
        "_written_before",
        "detached",
        "lineage",
        "only_writes",
        "reads_carefully",
        "saved",
        "wait_for_others",
    )

    def __init__(
        self, sock: socket.socket, farewell: bytes | None, gap: float, *, told: bool
    ) -> None:
        """Take over the descriptor of `sock`.

        `farewell`: None: none is declared; empty: the server says nothing at all.  `gap`: seconds.
        `told`: whether the client had the farewell before it had a handler.
        """
        super().__init__(sock, farewell, gap, told=told)
        self.saved: bytes | None = None
        """The saved state of a handler, on the way from one process to the next."""
        self.only_writes = False
        """Whether the handler saves its state before a write, because it never reads."""
        self.reads_carefully = False
        """Whether `makefile` returns files that lose no byte when a read is interrupted."""
        self.wait_for_others: Callable[[], None] | None = None
        """Waits until the handlers of all inherited clients have restored their state."""
        self.detached = False
        """Whether the handler has taken the descriptor away."""
        self.lineage = Lineage()
        """The children that the handler has forked."""
        self._is_shut = False
        """Whether the handler has ended the connection, for its children too."""
        info = tcp_info(self)
        self._written_before = info.written if info else 0
        # Where we could not see later that a read waits, calls are noted from the beginning.
        if info and not told and (not farewell or is_known()):
            self.__class__ = DirectSocket

    @property
    def written(self) -> int:
        """Bytes that the handler has written, the farewell not included."""
        with self._write_lock:
            info = tcp_info(self) if self.fileno() >= 0 else None
            if info is None:
                return self._counted
            farewell = len(self._farewell or b"") - len(self._unsent)
            return info.written - self._written_before - farewell

    # For the server.

    @property
    def progress(self) -> tuple[int, int] | None:
        """Bytes received and written so far; None where the kernel does not count them."""
        info = tcp_info(self)
        return (info.received, info.written) if info else None

    def freeze(self) -> None:
        """Let the handler's next read raise `FreezeInterrupt`, a present read `BlockingIOError`.

        Any thread may call.  The present read ends when a signal interrupts the thread.
        """
        self.__class__ = FreezingSocket
        self._limit_reads(_FREEZE_TIMEOUT)

    def mute(self) -> None:
        """Send nothing that the handler writes, until `unmute`.  Before the handler starts."""
        self._class_after = type(self)
        self.__class__ = MutedSocket

    def unmute(self) -> None:
        """Send what the handler writes from now on.  Any thread may call."""
        if type(self) is MutedSocket:
            self._go_on_as_before()

    def try_out(self, learn: Callable[[bool], None]) -> None:
        """Call `learn` at the first call of the handler: whether it writes, and does not read.

        Before the handler starts.
        """
        self._learn = learn
        self._class_after = type(self)
        self.__class__ = TriedSocket

    def _go_on_as_before(self) -> None:
        """Give the object the class that it had before `mute` or `try_out`."""
        self.__class__ = self._class_after
        if self._stage != Stage.ACTIVE:
            self._note_calls()

    def _note_calls(self) -> None:
        if type(self) is DirectSocket:
            self.__class__ = HandlerSocket  # type: ignore[assignment]

    def thaw(self) -> None:
        """Let the handler go on in this process.  Any thread may call."""
        self.__class__ = HandlerSocket
        self._limit_reads(0.0)

    def _limit_reads(self, seconds: float) -> None:
        # A socket that the handler has closed needs no limit.
        with suppress(OSError):
            set_timeout(self, socket.SO_RCVTIMEO, seconds)

    @property
    def freezing(self) -> bool:
        """Whether the handler is to save its state at its next read."""
        return type(self) is FreezingSocket

    def end(self) -> None:
        """End the connection, for the handler too.  Any thread may call."""
        # No call of the handler waits for the gap any more.
        self._stage = Stage.INPUT_ENDED
        end_both_ways(self)

    # For the handler.

    def await_the_others(self) -> None:
        """Return when the handlers of all inherited clients have restored their state."""
        wait, self.wait_for_others = self.wait_for_others, None
        if wait:
            wait()
        self.unmute()

    def capture(self, flush: Callable[[], None]) -> bytes:
        """Return the bytes that `flush` writes, and do not send them."""
        frozen, self.__class__ = self.__class__, CapturingSocket
        self._captured = bytearray()
        try:
            flush()
        finally:
            self.__class__ = frozen
        return bytes(self._captured)

    def makefile(self, mode: str = "r", buffering: int | None = None, **kwargs: Any) -> Any:
        """As of `socket.socket`."""
        if self.reads_carefully and set(mode) == {"r", "b"}:
            reader = Reader(self, -1 if buffering is None else buffering)
            self._reader = ref(reader)
            return reader
        return super().makefile(mode, buffering, **kwargs)

    def dup(self) -> socket.socket:  # type: ignore[override]
        """Duplicate the socket, as a plain socket: its writes and the farewell take no turns."""
        return socket.socket(self.family, self.type, self.proto, os.dup(self.fileno()))

    def shutdown(self, how: int) -> None:
        """As of `socket.socket`: of a closed one it is an error, and ends nothing for a child."""
        if self._is_left_to_children and self._is_called_by_handler:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        super().shutdown(how)
        self._is_shut = self._is_shut or how != socket.SHUT_RD

    @property
    def _is_left_to_children(self) -> bool:
        """Whether the handler has closed this object, and its children have the client."""
        return self._closed and bool(self.lineage) and self.fileno() >= 0  # type: ignore[attr-defined]

    def outlive_children(self) -> None:
        """Wait for the children of a handler that serve its client now; close then."""
        if self._is_left_to_children:
            self.lineage.wait(self)
        self.lineage.close()

    def detach(self) -> int:
        """As of `socket.socket`; the deadline ends the connection all the same."""
        self.gone, self.detached = cookie(self), True
        return self.release()

    @property
    def _handler_reads(self) -> bool:
        return self.thread is not ANY_THREAD and self.handler_waits

    def release(self) -> int:
        """Give the descriptor to the server, when the handler has ended."""
        self._counted = self.written
        return super().detach()

    def _real_close(self) -> None:
        if self.lineage and not self._is_shut:
            # The children have the client now.  The deadline has to reach the connection.
            return
        self._counted = self.written
        self.gone = cookie(self)
        if not self._is_called_by_handler and self._handler_reads:
            # The connection lasts as long as a read that waits: close(2) does not end it.
            end_input(self)
        super()._real_close()  # type: ignore[misc]


class FreezingSocket(HandlerSocket):
    """The socket of a handler that is to save its state, and go on in the next process."""

    __slots__ = ()

    def _before_writing(self) -> None:
        if self.only_writes:
            raise FreezeInterrupt
        super()._before_writing()

    def _before_reading(self) -> None:
        raise FreezeInterrupt

    # ``finally:`` and ``with`` of a handler would say goodbye to its client and close before the
    # state is saved: nothing is sent, shut or closed while an interruption passes.

    @property
    def _is_interrupted(self) -> bool:
        """Whether the calling thread is in a block that handles the interruption of a read."""
        error = sys.exc_info()[0]
        blocks = self.fileno() >= 0 and self.gettimeout() is None
        return error is FreezeInterrupt or (error is BlockingIOError and blocks)

    def _write(self, call: Callable[..., Any], *args: Any) -> Any:
        if not self._is_interrupted:
            return super()._write(call, *args)
        buffers = args[0] if args and isinstance(args[0], list | tuple) else args[:1]
        return sum(memoryview(each).nbytes for each in buffers)

    def shutdown(self, how: int) -> None:
        if not self._is_interrupted:
            super().shutdown(how)

    def _real_close(self) -> None:
        """Close nothing."""


class CapturingSocket(FreezingSocket):
    """The socket while the unflushed bytes of a file are taken."""

    __slots__ = ()

    def _write(self, call: Callable[..., Any], data: Any, *args: Any) -> Any:
        self._captured += data
        return memoryview(data).nbytes


class MutedSocket(HandlerSocket):
    """The socket of a handler that goes on, until the state of all handlers is restored.

    A method that the handler keeps, ``self.write = self.request.sendall`` in `setup`, is called on
    an object of another class later, and then has to send.
    """

    __slots__ = ()

    def _before_reading(self) -> None:
        raise RuntimeError("setup() and restore() of a handler that goes on must not read")

    def send(self, data: Any, *args: Any) -> int:
        if type(self) is not MutedSocket:
            return self.send(data, *args)
        return memoryview(data).nbytes

    def sendall(self, data: Any, *args: Any) -> None:
        """Send nothing."""
        if type(self) is not MutedSocket:
            self.sendall(data, *args)

    def sendmsg(self, buffers: Any, *args: Any) -> int:
        if type(self) is not MutedSocket:
            return self.sendmsg(buffers, *args)
        return sum(memoryview(each).nbytes for each in buffers)

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        if type(self) is not MutedSocket:
            return self.sendfile(file, offset, count)
        return len(file.read() if count is None else file.read(count))


class TriedSocket(HandlerSocket):
    """The socket of a handler that has called nothing yet, and whose client has said nothing.

    Another thread may write to this client, as in a chat: that is no word of this handler.
    """

    __slots__ = ()

    # Not by super(): another thread may change the class at any moment, to freeze the handler.

    def _before_reading(self) -> None:
        self._find_out(writes=False)
        HandlerSocket._before_reading(self)

    def _write(self, call: Callable[..., Any], *args: Any) -> Any:
        result = HandlerSocket._write(self, call, *args)
        if memoryview(args[0]).nbytes if result is None else result:
            self._find_out(writes=True)
        return result

    def _find_out(self, *, writes: bool) -> None:
        if type(self) is TriedSocket and self._is_called_by_handler:
            self._go_on_as_before()
            self._learn(writes)


class DirectSocket(HandlerSocket):
    """The socket of a handler before the drain: the calls are those of `socket.socket`."""

    __slots__ = ()

    recv = socket.socket.recv
    recv_into = socket.socket.recv_into
    recvmsg = socket.socket.recvmsg
    recvmsg_into = socket.socket.recvmsg_into
    recvfrom = socket.socket.recvfrom
    recvfrom_into = socket.socket.recvfrom_into
    send = socket.socket.send  # type: ignore[assignment]
    sendall = socket.socket.sendall  # type: ignore[assignment]
    sendmsg = socket.socket.sendmsg
    sendfile = socket.socket.sendfile
