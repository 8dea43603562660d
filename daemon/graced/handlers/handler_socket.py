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

import os
import select
import socket
from contextlib import suppress
from threading import Thread
from time import sleep

from graced.handlers.lineage import Lineage
from graced.handlers.rest import NotedSocket, unread
from graced.sockets.blocked_read import is_known
from graced.sockets.closing import end_both_ways, end_input, is_at_its_end
from graced.sockets.elsewhere import cookie
from graced.sockets.tcp_info import tcp_info
from graced.sockets.timeout import set_timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Stage:
    """The progress of the goodbye on one connection, as a number that only grows.

    Plain numbers: a comparison is made for each read and write of a Unix socket.
    """

    ACTIVE = 0
    """No goodbye is due."""
    PENDING = 1
    """The goodbye is due as soon as the client is at rest."""
    FAREWELL_SENT = 2
    """The client has the farewell; the next write of the handler waits for the gap."""
    ANSWERED = 3
    """The handler has written after the farewell, and is served as before."""
    INPUT_ENDED = 4
    """The handler hears end of file."""


RETRY = 0.25
"""Seconds until the next look at a client that was quiet and not at rest."""
_FREEZE_TIMEOUT = 0.000_001
"""Seconds that a read of a frozen handler waits."""


class FreezeInterrupt(BaseException):
    """Raised by a new read of a frozen handler, which is to save its state instead of reading.

    A `BaseException`, so that an ``except Exception`` of the handler lets it pass.  A read that was
    waiting already raises `BlockingIOError`, which an ``except OSError`` would swallow.
    """


class HandlerSocket(NotedSocket):
    """A connected stream socket over which the server can say goodbye at any time.

    Any thread may call the methods of the section "For the server" and read `silence`; everything
    else is for the handler's thread.
    """

    __slots__ = (
        "_farewell",
        "_gap",
        "_is_shut",
        "_stage",
        "_unsent",
        "_written_before",
        "detached",
        "gone",
        "lineage",
        "saved",
        "words",
    )

    def __init__(
        self, sock: socket.socket, farewell: bytes | None, gap: float, *, told: bool
    ) -> None:
        """Take over the descriptor of `sock`.

        `farewell`: None: none is declared; empty: the server says nothing at all.  `gap`: seconds.
        `told`: whether the client had the farewell before it had a handler.
        """
        super().__init__(sock)
        self.saved: bytes | None = None
        """The saved state of a handler, on the way from one process to the next."""
        self.words: Callable[[], bytes | None] | None = None
        """The method of the handler that returns the farewell of this client, or says it."""
        self.gone = 0
        """The cookie of the connection, when the handler has detached or closed this object."""
        self.detached = False
        """Whether the handler has taken the descriptor away."""
        self.lineage = Lineage()
        """The children that the handler has forked."""
        self._is_shut = False
        """Whether the handler has ended the connection, for its children too."""
        info = tcp_info(self)
        self._written_before = info.written if info else 0
        self._farewell = farewell
        self._unsent = farewell or b""
        """The end of the farewell that the kernel has not taken yet."""
        self._gap = gap
        self._stage = Stage.ANSWERED if told else Stage.ACTIVE
        # Where we could not see later that a read waits, calls are noted from the beginning.
        if info and not told and (not farewell or is_known()):
            self.__class__ = DirectSocket

    @property
    def written(self) -> int:
        """Bytes that the handler has written, the farewell not included."""
        with self._write_lock:
            info = tcp_info(self)
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

    def begin_drain(self) -> None:
        """Say goodbye as soon as the client is at rest.  Any thread may call."""
        if self._stage == Stage.ACTIVE and self._farewell != b"":
            if type(self) is DirectSocket:
                self.__class__ = HandlerSocket  # type: ignore[assignment]
            self._to_read = unread(self)
            self._stage = Stage.PENDING

    def say_goodbye(self) -> float:
        """Say goodbye if the client is at rest.  Any thread may call; the call does not wait.

        Return the seconds after which the client may be at rest; 0: there is nothing more to do.
        """
        if self._stage != Stage.PENDING or self.gone:
            return 0.0
        wait = self._gap - self.silence
        if wait > 0:
            return wait
        if not (self._may_be_told and self._write_lock.acquire(blocking=False)):
            return RETRY
        try:
            if self.words:
                # The method may wait, and must not make other clients wait.
                Thread(target=self._tell, name="farewell", daemon=True).start()
            else:
                self._tell()
        finally:
            self._write_lock.release()
        return RETRY if self._stage == Stage.PENDING else 0.0

    def tell_at_deadline(self) -> bool:
        """Send a declared farewell to a client at rest, without a gap; return False if in vain.

        Any thread may call.
        """
        self.begin_drain()
        if not (self._stage == Stage.PENDING and self._farewell):
            return True
        if not (self._may_be_told and self._write_lock.acquire(blocking=False)):
            return False
        try:
            self._tell()
        finally:
            self._write_lock.release()
        return True

    def end(self) -> None:
        """End the connection, for the handler too.  Any thread may call."""
        # No call of the handler waits for the gap any more.
        self._stage = Stage.INPUT_ENDED
        end_both_ways(self)

    @property
    def _may_be_told(self) -> bool:
        """Whether the client is at rest, and no answer is under way.

        Where no handler has started, no answer is under way, whatever the client has sent.
        """
        if self.thread is None and self._farewell:
            return True
        return self.is_at_rest and (self.handler_waits or not self._speaks)

    @property
    def _speaks(self) -> bool:
        """Whether the goodbye is bytes, and not only end of file."""
        return bool(self._farewell or self.words)

    def _tell(self) -> None:
        with self._write_lock:
            if self.words and self._stage == Stage.PENDING:
                self._ask_handler(self.words)
            if self._stage != Stage.PENDING:
                return
            if self._farewell:
                self._send_farewell()
            else:
                self._stage = Stage.INPUT_ENDED
                end_input(self)

    def _ask_handler(self, words: Callable[[], bytes | None]) -> None:
        """Let the handler say farewell, or return it; its writes do not wait meanwhile."""
        self.words = None
        self._stage = Stage.ACTIVE
        self._farewell = words() or None
        self._unsent = self._farewell or b""
        self._stage = Stage.PENDING

    def _send_farewell(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[self._send_without_waiting(self._unsent) :]
        except OSError:
            # Where the buffer is full, the rest is sent before the handler's next write.  Where the
            # connection is broken, the handler's next call fails.
            return
        self._stage = Stage.FAREWELL_SENT

    def _send_without_waiting(self, data: bytes) -> int:
        if self.gettimeout() is None:
            return socket.socket.send(self, data, socket.MSG_DONTWAIT)
        # With a timeout Python would wait for room first, whatever the flags are; the descriptor is
        # in non-blocking mode then.
        return os.write(self.fileno(), data)

    # For the handler.

    def tell_at_end(self) -> None:
        """Send a declared farewell when the handler has returned, unless sent or useless.

        Sleeps until the connection has been quiet for the gap.
        """
        self.begin_drain()
        if self._stage == Stage.PENDING and self._speaks and not is_at_its_end(self):
            sleep(max(0.0, self._gap - self.silence))
            self._tell()

    def _before_reading(self) -> None:
        if self._stage == Stage.PENDING:
            self._say_goodbye_before_reading()

    def _say_goodbye_before_reading(self) -> None:
        """Say goodbye in the handler's thread, which is about to wait for its client.

        A client that answers whatever comes leaves no gap.  It gets a declared farewell when all
        that had arrived before the drain is answered, and its next bytes stay unread for the gap.
        """
        if not self._has_answered or (self._speaks and not self._is_called_by_handler):
            return
        wait = max(0.0, self._gap - self.silence)
        if self._speaks and not self._to_read:
            sleep(wait)
            if self._has_answered:
                self._tell()
            return
        if wait and self.gettimeout() != 0.0:
            poll = select.poll()
            poll.register(self, select.POLLIN)
            poll.poll(1000 * wait)
        if self.is_at_rest:
            self._tell()

    @property
    def _looks_for_read_ahead(self) -> bool:
        return self._stage == Stage.PENDING

    def _before_writing(self) -> None:
        if self._stage == Stage.PENDING and len(self._unsent) != len(self._farewell or b""):
            socket.socket.sendall(self, self._unsent)
            self._unsent = b""
            self._stage = Stage.FAREWELL_SENT
        if self._stage == Stage.FAREWELL_SENT:
            self._stage = Stage.ANSWERED
            sleep(self._gap)

    def dup(self) -> socket.socket:  # type: ignore[override]
        """Duplicate the socket, as a plain socket: its writes and the farewell take no turns."""
        return socket.socket(self.family, self.type, self.proto, os.dup(self.fileno()))

    def shutdown(self, how: int) -> None:
        """As of `socket.socket`."""
        super().shutdown(how)
        self._is_shut = self._is_shut or how != socket.SHUT_RD

    def outlive_children(self) -> None:
        """Wait for the children of a handler that serve its client now; close then."""
        if self._closed and self.fileno() >= 0:  # type: ignore[attr-defined]
            self.lineage.wait(self)
        self.lineage.close()

    def detach(self) -> int:
        """As of `socket.socket`; the deadline ends the connection all the same."""
        self.gone, self.detached = cookie(self), True
        return self.release()

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
        super()._real_close()  # type: ignore[misc]


class FreezingSocket(HandlerSocket):
    """The socket of a handler that is to save its state, and go on in the next process."""

    __slots__ = ()

    def _before_reading(self) -> None:
        raise FreezeInterrupt

    def _real_close(self) -> None:
        """Close nothing: ``with self.request:`` closes before the state is saved."""


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
