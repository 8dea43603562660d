"""Stray connections: taken by a handler out of its request, by detach() or a TLS wrapper.

A handler's protocol goes on there, out of our hands; but the stop must still reach it.  The
connection is looked for among all descriptors of the process, when the stop needs it.
"""

from __future__ import annotations

import math
from threading import Lock

from graced.sockets import elsewhere
from graced.sockets.closing import end_both_ways, end_input
from graced.sockets.tcp_info import spoke_last, tcp_info
from graced.sockets.unread import unread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from socket import socket

    from graced.handlers.handler_socket import HandlerSocket

RETRY = 0.25
"""Seconds between two looks at a connection that was not at rest."""
_FIRST_PRUNE = 64


class Strays:
    """The stray connections of one pool.  Any thread may call."""

    def __init__(self, gap: float) -> None:
        """`gap`: seconds of silence before the goodbye."""
        self._gap = gap
        self._lock = Lock()
        self._remembered: set[int] = set()
        self._prune_at = _FIRST_PRUNE
        self._told: set[int] = set()

    def remember(self, cookie: int) -> None:
        """Remember a connection whose handler has returned, and which may be open still."""
        with self._lock:
            self._remembered.add(cookie)
            if len(self._remembered) >= self._prune_at:
                self._prune()

    def _prune(self) -> None:
        found = elsewhere.find(self._remembered)
        _close(found.values())
        self._remembered = set(found)
        self._prune_at = max(_FIRST_PRUNE, 2 * len(found))

    def say_goodbyes(self, requests: Iterable[HandlerSocket]) -> float:
        """End the input of strays at rest: bytes of our own could be wrong, in TLS for example.

        Return the seconds after which another may be at rest; infinite: none is left.
        """
        with self._lock:
            untold = self._cookies(requests) - self._told
            found = elsewhere.find(untold) if untold else {}
            for cookie, sock in found.items():
                if self._is_at_rest(sock):
                    end_input(sock)
                    self._told.add(cookie)
            _close(found.values())
            return RETRY if found.keys() - self._told else math.inf

    def end(self, requests: Iterable[HandlerSocket]) -> None:
        """End all strays, at the deadline."""
        with self._lock:
            cookies = self._cookies(requests)
            found = elsewhere.find(cookies) if cookies else {}
            for sock in found.values():
                end_both_ways(sock)
            _close(found.values())
            self._remembered.clear()

    def _cookies(self, requests: Iterable[HandlerSocket]) -> set[int]:
        gone = {request.gone for request in requests if request.fileno() < 0}
        return (gone | self._remembered) - {0}

    def _is_at_rest(self, sock: socket) -> bool:
        """Whether a connection is at rest, as far as the kernel knows (of Unix sockets: no)."""
        info = tcp_info(sock)
        return (
            info is not None
            and info.silence >= self._gap
            and not info.pending
            and spoke_last(sock, info)
            and not unread(sock)
        )


def _close(sockets: Iterable[socket]) -> None:
    for sock in sockets:
        sock.close()
