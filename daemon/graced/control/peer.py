"""A peer: one connection to the control socket, with bounded memory and time.

A peer is read only while nothing is unsent and no call is under way, and a reply is made only when
the last one is sent.  So a peer costs a call and a reply at most, whatever it sends and however
slowly it reads.
"""

from __future__ import annotations

from math import inf
from select import POLLIN, POLLOUT
from time import monotonic

from graced.control.varlink import (
    Decoder,
    MalformedError,
    VarlinkError,
    call_of,
    error_reply,
    reply,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket

    from graced.control.interface import Interface, Replies
    from graced.control.rights import Rights

READ_SIZE = 16 * 1024
"""Bytes."""
IDLE_TIMEOUT = 60.0
"""Seconds that a peer may be connected without a call."""
NEWS_INTERVAL = 0.1
"""Seconds between two looks at something that a peer wants to know when it happens."""
PROGRESS_TIMEOUT = 10.0
"""Seconds in which a peer has to send the next byte of a call, or to take one of its reply."""


class Peer:
    """A connection.  For the control thread."""

    def __init__(self, sock: socket, rights: Rights, interface: Interface) -> None:
        """`sock` does not block."""
        self.sock = sock
        self._rights = rights
        self._interface = interface
        self._decoder = Decoder()
        self._replies: Replies | None = None
        """The replies to the call that is under way."""
        self._oneway = False
        self._unsent = b""
        self._moved_at = monotonic()
        """When the last byte was read or sent."""
        self._news_at = 0.0

    @property
    def interest(self) -> int:
        """The events that this peer waits for; 0: there is a reply to make, at `news_at`."""
        if self._unsent:
            return POLLOUT
        return 0 if self._replies else POLLIN

    @property
    def news_at(self) -> float:
        """Monotonic time of the next look for a reply; infinite: none is to be made."""
        return inf if self.interest else self._news_at

    @property
    def due(self) -> float:
        """Monotonic time at which the connection is closed unless the peer does something."""
        under_way = self._unsent or self._replies or self._decoder.pending
        return self._moved_at + (PROGRESS_TIMEOUT if under_way else IDLE_TIMEOUT)

    def go_on(self) -> bool:
        """Read, make a reply or send, once; return False at the end of the connection.

        Never waits for the peer.
        """
        try:
            if self._unsent:
                return self._send()
            return self._reply(self._replies) if self._replies else self._read()
        except (MalformedError, ConnectionError):
            # Nothing can be said to a peer that does not speak varlink, or that has gone.
            return False

    def say_last(self) -> None:
        """Make the reply that is to be made, at the end of the service."""
        if self.news_at < inf:
            self.go_on()

    def _read(self) -> bool:
        try:
            data = self.sock.recv(READ_SIZE)
        except BlockingIOError:
            return True
        self._moved_at = monotonic()
        self._decoder.feed(data)
        self._begin()
        return bool(data)

    def _begin(self) -> None:
        """Begin to answer the next call, if it is complete."""
        for message in self._decoder.messages():
            call = call_of(message)
            self._oneway = call.oneway
            self._replies = self._interface.answer(call, self._rights)
            return

    def _reply(self, replies: Replies) -> bool:
        try:
            parameters, continues = next(replies)
            data = b"" if parameters is None else reply(parameters, continues=continues)
        except VarlinkError as error:
            data, continues = error_reply(error), False
        self._news_at = 0.0 if data else monotonic() + NEWS_INTERVAL
        if not continues:
            self._replies = None
        if not self._oneway:
            self._unsent = data
        return self._send()

    def _send(self) -> bool:
        if not self._unsent:
            # No news, or nobody who wants to hear it.
            return self._go_on_reading()
        try:
            sent = self.sock.send(self._unsent)
        except BlockingIOError:
            return True
        self._moved_at = monotonic()
        self._unsent = self._unsent[sent:]
        return self._go_on_reading()

    def _go_on_reading(self) -> bool:
        """Begin to answer a call that came with the last one."""
        if not (self._unsent or self._replies):
            self._begin()
        return True
