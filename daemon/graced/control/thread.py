"""The control thread: serves the peers of the control socket, while there are any.

It is started for the first peer and ends after the last, so a service that nobody asks anything
has no such thread.
"""

from __future__ import annotations

import os
import select
from collections import deque
from contextlib import suppress
from math import ceil, inf
from threading import Lock, Thread
from time import monotonic

from graced.control.interface import Interface
from graced.control.peer import Peer
from graced.control.varlink import VarlinkError, error_reply
from graced.log import events
from graced.log.event import summary_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket

    from graced.control.rights import Rights
    from graced.control.subject import Subject

MAX_PEERS = 16
"""Connections at once."""
MAX_PEERS_OF_A_USER = 8
"""Of which one user has so many at most, root excepted."""


class ControlThread(Thread):
    """Serves peers.  Any thread may add one, and stop it."""

    def __init__(self, subject: Subject) -> None:
        """Raises `OSError` where there is no descriptor left."""
        super().__init__(name="control", daemon=True)
        self._interface = Interface(subject)
        self._lock = Lock()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._arrived: deque[tuple[socket, Rights]] = deque()
        self._users: dict[int, int] = {}
        """The number of peers of each user, those that have arrived included."""
        self._peers: dict[int, tuple[Peer, int]] = {}
        """Peers with their users, by descriptor."""
        self._stopping = False
        self._ended = False

    def add(self, sock: socket, rights: Rights) -> bool:
        """Serve a peer, whose socket does not block; return False where this thread has ended.

        A peer that is one too many is told so, and closed.
        """
        with self._lock:
            if self._ended:
                return False
            own = self._users.get(rights.user, 0)
            full = sum(self._users.values()) >= MAX_PEERS
            if full or (rights.user and own >= MAX_PEERS_OF_A_USER):
                with sock, suppress(OSError):
                    sock.send(error_reply(VarlinkError("io.graced.Control.TooManyPeers")))
                return True
            self._users[rights.user] = own + 1
            self._arrived.append((sock, rights))
            os.eventfd_write(self._wake_fd, 1)
            return True

    def stop(self) -> None:
        """Close all peers and end, as soon as a reply that is being made is made."""
        with self._lock:
            self._stopping = True
            if not self._ended:
                os.eventfd_write(self._wake_fd, 1)

    def run(self) -> None:
        """Serve until no peer is there."""
        while self._welcome():
            for fd in self._wait():
                self._go_on(fd)

    def _welcome(self) -> bool:
        """Take the peers that have arrived; return False when there is none any more."""
        with self._lock:
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake_fd)
            for sock, rights in self._arrived:
                peer = Peer(sock, rights, self._interface)
                self._peers[sock.fileno()] = peer, rights.user
            self._arrived.clear()
            if self._peers and not self._stopping:
                return True
            for fd, (peer, _) in list(self._peers.items()):
                with suppress(Exception):
                    # Of whatever kind: the service has ended.
                    peer.say_last()
                self._close(fd)
            self._ended = True
            os.close(self._wake_fd)
            return False

    def _wait(self) -> list[int]:
        """Wait until a peer has something to do, and return the descriptors of these peers."""
        poll = select.poll()
        poll.register(self._wake_fd, select.POLLIN)
        due = inf
        for fd, (peer, _) in self._peers.items():
            due = min(due, peer.due, peer.news_at)
            if interest := peer.interest:
                poll.register(fd, interest)
        ready = {fd for fd, _ in poll.poll(max(0, ceil(1000 * (due - monotonic()))))}
        now = monotonic()
        return [
            fd
            for fd, (peer, _) in self._peers.items()
            if fd in ready or min(peer.due, peer.news_at) <= now
        ]

    def _go_on(self, fd: int) -> None:
        peer, _ = self._peers[fd]
        try:
            lives = peer.go_on() and peer.due > monotonic()
        except Exception as error:
            # A fault of ours must not end the service.
            events.CONTROL_FAILED(reason=summary_of(error), exc_info=error)
            lives = False
        if not lives:
            with self._lock:
                self._close(fd)

    def _close(self, fd: int) -> None:
        peer, user = self._peers.pop(fd)
        peer.sock.close()
        self._users[user] -= 1
        if not self._users[user]:
            del self._users[user]
