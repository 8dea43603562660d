"""The goodbye on the socket of a blocking handler: when, and in which words.

`graced.handlers.handler_socket` shows the stages; `graced.handlers.rest` says when a client is at
rest.
"""

from __future__ import annotations

import os
import select
import socket
from contextlib import suppress
from threading import Thread

from graced.handlers.rest import NotedSocket
from graced.sockets.closing import end_input, is_at_its_end
from graced.sockets.unread import unread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


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


def as_bytes(farewell: Any) -> bytes | None:
    """The bytes of a farewell.  Raises `TypeError`."""
    if isinstance(farewell, str):
        try:
            return farewell.encode()
        except UnicodeEncodeError:
            raise TypeError(
                f"farewell must be bytes, str of UTF-8 or None, not {farewell!r}"
            ) from None
    if not isinstance(farewell, bytes | None):
        raise TypeError(f"farewell must be bytes, str or None, not {farewell!r}")
    return farewell


class GoodbyeSocket(NotedSocket):
    """A connected stream socket over which the server can say goodbye at any time."""

    __slots__ = ("_farewell", "_gap", "_is_overdue", "_stage", "_unsent", "gone", "words")

    def __init__(
        self, sock: socket.socket, farewell: bytes | None, gap: float, *, told: bool
    ) -> None:
        """See `HandlerSocket`."""
        super().__init__(sock)
        self.words: Callable[[], bytes | None] | None = None
        """The method of the handler that returns the farewell of this client, or says it."""
        self.gone = 0
        """The cookie of the connection, when the handler has detached or closed this object."""
        self._farewell = farewell
        self._unsent = farewell or b""
        """The end of the farewell that the kernel has not taken yet."""
        self._is_overdue = False
        """Whether the farewell was due when the kernel did not take it."""
        self._gap = gap
        self._stage = Stage.ANSWERED if told else Stage.ACTIVE

    @property
    def is_told(self) -> bool:
        """Whether the client knows that the server is going offline."""
        return self._stage > Stage.PENDING

    @property
    def is_parting(self) -> bool:
        """Whether the client is told, or shall be as soon as it is at rest."""
        return self._stage != Stage.ACTIVE

    def begin_drain(self) -> None:
        """Say goodbye as soon as the client is at rest.  Any thread may call."""
        if self._stage == Stage.ACTIVE and self._farewell != b"":
            self._to_read = unread(self)
            self._stage = Stage.PENDING
            self._note_calls()

    def _note_calls(self) -> None:
        """Note each call of the handler from now on."""

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
                thread = Thread(target=self._tell_if_at_rest, name="farewell", daemon=True)
                # Where the system refuses a thread now, it may not refuse the next.
                with suppress(RuntimeError):
                    thread.start()
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

    def _tell_if_at_rest(self) -> None:
        with self._write_lock:
            # Since the start of the thread a request may have come, and be answered in part.
            if self._may_be_told:
                self._tell()

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
        except BlockingIOError:
            # The rest is sent before the handler's next write, or when the handler has returned.
            self._is_overdue = True
            return
        except OSError:
            # The connection is broken, and the handler's next call fails.
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

        Sleeps until the connection has been quiet for the gap, and until the client has taken so
        much of the last answer that the farewell finds room: until the deadline, at most.
        """
        self.begin_drain()
        if self._stage != Stage.PENDING or not self._speaks:
            return
        if not self._is_overdue and is_at_its_end(self):
            return
        self._pause(self._gap - self.silence)
        with self._write_lock:
            self._tell()
            if self._is_overdue and self._stage == Stage.PENDING:
                self._send_overdue()

    def _pause(self, seconds: float) -> None:
        """Wait, but not over the end of the connection: a deadline, a reset.

        A client that has half-closed may read and compare yet.
        """
        poll = select.poll()
        if self.fileno() >= 0:
            poll.register(self, 0)
        poll.poll(1000 * max(0.0, seconds))

    def _send_overdue(self) -> None:
        try:
            socket.socket.sendall(self, self._unsent)
        except OSError:
            # The client has gone, takes nothing for too long, or is closed at the deadline.
            return
        self._unsent = b""
        self._stage = Stage.FAREWELL_SENT

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
            self._pause(wait)
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
            self._pause(self._gap)
