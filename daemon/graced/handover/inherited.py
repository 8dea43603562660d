"""What the last process of the service has left, as the service manager passes it on."""

from __future__ import annotations

import os
from contextlib import suppress
from socket import AF_UNIX, SHUT_WR, socket
from time import monotonic

from graced.handover.fd_bundle import unpack
from graced.handover.fdstore import CLIENTS, LISTENERS, MIRRORED, PREFIX
from graced.handover.snapshot import SnapshotError, decode
from graced.log import events
from graced.loop.client import Client
from graced.loop.phase import GONE
from graced.sockets.closing import is_at_its_end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_AT_ONCE = 1024 * 1024
_MOST_READS = 4


class Inherited:
    """Listening sockets and clients to go on with.  Main thread only."""

    def __init__(self, passed: Sequence[tuple[int, str]]) -> None:
        """`passed`: descriptors with their names; those that were not left by us are `others`."""
        self.names: set[str] = set()
        """What the service manager knows it by, and still keeps."""
        self.others: list[int] = []
        self.listeners: list[socket] = []
        self.clients: list[Client] = []
        """Those to be told that they cannot stay are not `counted`."""
        self.frozen = 0.0
        """Monotonic time since when nobody has served them; 0: the last process has crashed."""
        kept: list[socket] = []
        for fd, name in passed:
            if not name.startswith(PREFIX):
                self.others.append(fd)
                continue
            self.names.add(name)
            sock = _take(fd)
            if sock and name == LISTENERS:
                self.listeners.append(sock)
            elif sock:
                # A copy of each client stays in it until the store forgets it.
                with sock:
                    if name == CLIENTS:
                        self._read_clients(sock)
                    elif name == MIRRORED:
                        kept += _sockets(unpack(sock))
        if self.frozen:
            _close(kept)
        else:
            self.clients = [client for client in map(_recognise, kept) if client]

    def turn_away(self, farewell: bytes) -> None:
        """Tell the clients that nobody will serve them, after what they take of what is unsent."""
        for client in self.clients:
            with client.sock, suppress(OSError):
                with suppress(BlockingIOError):
                    client.sock.send(client.unsent + farewell)
                client.sock.shutdown(SHUT_WR)
                # What is unread at the end would destroy what was said.
                for _ in range(_MOST_READS):
                    if not client.sock.recv(_AT_ONCE):
                        break

    def _read_clients(self, bundle: socket) -> None:
        messages = unpack(bundle)
        state = next(messages, None)
        if state is None:
            return
        connections = _sockets(messages)
        try:
            self.frozen, self.clients = decode(_read(state), connections, GONE)
        except SnapshotError as error:
            events.NOT_INHERITED(reason=error)
            self.frozen = monotonic()
            self.clients = [client for client in map(_recognise, connections) if client]
            for client in self.clients:
                client.counted = False
        else:
            _close(set(connections) - {client.sock for client in self.clients})


def _sockets(messages: Iterator[list[int]]) -> list[socket]:
    found = []
    try:
        for descriptors in messages:
            found += [sock for sock in map(_take, descriptors) if sock]
    except OSError as error:
        events.NOT_INHERITED(reason=error.strerror)
    return found


def _close(sockets: Iterable[socket]) -> None:
    for sock in sockets:
        sock.close()


def _take(fd: int) -> socket | None:
    """The socket; None where it is none, and is closed."""
    os.set_inheritable(fd, False)
    try:
        sock = socket(fileno=fd)
    except OSError:
        os.close(fd)
        return None
    sock.setblocking(False)
    return sock


def _read(descriptors: list[int]) -> bytes:
    if not descriptors:
        return b""
    with open(descriptors[0], "rb") as file:
        file.seek(0)
        return file.read()


def _recognise(sock: socket) -> Client | None:
    """A client of whom nothing is known but its socket; None where it has left."""
    try:
        peer = sock.getpeername()
        name = sock.getsockname()
        left = is_at_its_end(sock)
    except OSError:
        left = True
    if left:
        sock.close()
        return None
    host, port = (f"unix:{name}", 0) if sock.family == AF_UNIX else peer[:2]
    return Client(sock, host, port, GONE, monotonic())
