"""Listeners, clients and counts that this process inherits from the last process of the service."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from itertools import chain
from socket import AF_UNIX, MSG_PEEK, SO_ACCEPTCONN, SOL_SOCKET, socket
from time import monotonic

from graced.handover.fd_bundle import keeps_descriptors, unpack
from graced.handover.fdstore import CLIENTS, LISTENERS, PREFIX, REFUSED, is_mirrored
from graced.handover.snapshot import SnapshotError, decode
from graced.log import events
from graced.loop.client import Client
from graced.loop.phase import GONE, TOLD
from graced.sockets import closing
from graced.sockets.accepted import KeepAlive, set_up_inherited
from graced.sockets.address import format_address, plain_host
from graced.sockets.closing import is_at_its_end
from graced.sockets.inherited_listeners import InheritedListeners

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from graced.handover.snapshot import Counts


class Inherited:
    """Listening sockets and clients of the last process.  Main thread only."""

    def __init__(
        self,
        passed: Sequence[tuple[int, str]],
        keepalive: KeepAlive | None = None,
        *,
        in_use: bool = False,
    ) -> None:
        """`passed`: descriptors with names, in the order of the service manager.

        `in_use`: the last process serves yet, see `InheritedListeners`.
        """
        self.names: set[str] = set()
        """The names of the descriptors that graced has in the store."""
        self.others: list[int] = []
        """The descriptors that graced has not stored: listeners of a socket unit."""
        self.clients: list[Client] = []
        """The clients; a client that has to be turned away is not `counted`."""
        self.frozen = 0.0
        """Monotonic time from which on no process has served the clients; 0: the last process has
        handed over nothing, because of a crash for example."""
        self.counts: Counts = (0, 0, 0, 0)
        """Of the processes before."""
        self.tallies: dict[str, int] = {}
        """Further counts of the processes before, by name."""
        self.handler: str | None = None
        """The handler that the clients have talked to; None: unknown."""
        self.in_store = True
        """Whether the store still has all clients, for another try to start."""
        self._bundle: socket | None = None
        self._unknown: list[socket] = []
        """Clients whose state is lost."""
        listeners: list[socket] = []
        mirrored: dict[int, socket] = {}
        for fd, name in passed:
            if not _has_stored(name, fd):
                self.others.append(fd)
                continue
            self.names.add(name)
            sock = _take(fd)
            if sock and name == LISTENERS:
                listeners.append(sock)
            elif sock and name == CLIENTS:
                # A copy of each client stays in the bundle until the store forgets it.
                self.in_store = self.in_store and keeps_descriptors(sock)
                self._read_clients(sock)
                self._bundle = sock
            elif sock:
                with sock:
                    if is_mirrored(name):
                        self.in_store = self.in_store and keeps_descriptors(sock)
                        # A crash may have left two bundles, with the same clients.
                        for client in _sockets(unpack(sock)):
                            first = mirrored.setdefault(os.fstat(client.fileno()).st_ino, client)
                            if first is not client:
                                client.close()
        self.listeners = InheritedListeners(listeners, in_use=in_use)
        """The listening sockets, until an address takes them."""
        if self.frozen:
            _close(mirrored.values())
        else:
            self._recognise(mirrored.values())
        if keepalive:
            tcp = [client.sock for client in self.clients if client.sock.family != AF_UNIX]
            reasons = {set_up_inherited(sock, keepalive) for sock in tcp} - {""}
            for reason in sorted(reasons):
                events.LIMITS(reason=f"inherited clients may keep the old keepalive: {reason}")

    def _recognise(self, mirrored: Iterable[socket]) -> None:
        """Find out who the clients of a crash are."""
        found = [client for client in map(_recognise, mirrored) if client]
        if found:
            self.clients = found
            self.counts = (len(found), 0, 0, 0)
            _close(self._unknown)
        elif self._unknown:
            self.frozen = monotonic()
            self.clients = [client for client in map(_recognise, self._unknown) if client]
            for client in self.clients:
                client.counted = False

    def begin_to_serve(self) -> None:
        """Take the state of the clients out of the store: it is about to change.

        If this process is killed before the store forgets the clients, the next one tells them.
        """
        if self._bundle:
            with suppress(BlockingIOError):
                self._bundle.recv(1)
            self.close()

    def close(self) -> None:
        """Close our copy of the bundle; the store is not changed."""
        if self._bundle:
            self._bundle.close()
            self._bundle = None

    def retire_listeners(self) -> list[Client]:
        """Close the listening sockets that no address has taken.

        Return the clients from their queues, which have to be turned away.
        """
        return to_turn_away(self.listeners.retire())

    def expect_handler(self, handler: str) -> str:
        """Let clients of another handler be turned away, with end of file: its words are unknown.

        A client that has not said or heard anything is served: it cannot tell the difference.
        Return the reason for the log; empty: there are no such clients.
        """
        if self.handler in {None, handler}:
            return ""
        others = []
        for client in self.clients:
            if is_new(client):
                client.saved = None
            else:
                others.append(client)
        for client in others:
            client.counted = False
            client.told = TOLD
        return f"their handler was {self.handler}, and is {handler} now" if others else ""

    def turn_away(self, farewell: bytes) -> None:
        """Send all clients their unsent bytes and the farewell; no process will serve the clients.

        The clients in the queues of listening sockets are among them.
        """
        self.close()
        _turn_away(self.clients, farewell)
        _turn_away(self.retire_listeners(), farewell)

    def turn_away_unstored(self, farewell: bytes) -> None:
        """The same for the clients that the store does not have; listening sockets stay there.

        Such clients are those of a bundle that had to be emptied, and those from the queue of a
        listening socket that was in the way of a new socket.
        """
        self.close()
        if not self.in_store:
            _turn_away(self.clients, farewell)
        for sock in self.listeners.sockets:
            sock.close()
        self.listeners.sockets.clear()
        _turn_away(self.retire_listeners(), farewell)

    def _read_clients(self, bundle: socket) -> None:
        messages = unpack(bundle)
        try:
            state = next(messages, None)
        except OSError as error:
            events.NOT_INHERITED(reason=error.strerror)
            return
        if state is None:
            return
        if any(stat.S_ISSOCK(os.fstat(fd).st_mode) for fd in state):
            events.NOT_INHERITED(reason="the last process was killed when it had just started")
            self._unknown = _sockets(chain([state], messages))
            return
        connections = _sockets(messages)
        try:
            snapshot = decode(_read(state), connections, GONE)
        except (SnapshotError, OSError) as error:
            events.NOT_INHERITED(reason=error)
            self._unknown = connections
        else:
            self.frozen, self.clients, self.counts = (
                snapshot.frozen,
                snapshot.clients,
                snapshot.counts,
            )
            self.handler, self.tallies = snapshot.handler, snapshot.tallies
            _close(set(connections) - {client.sock for client in self.clients})


def to_turn_away(connections: Iterable[socket]) -> list[Client]:
    """Clients for connections from the queue of a listener at which nobody is served any more."""
    clients = []
    for sock in connections:
        sock.setblocking(False)
        if client := _client(sock):
            client.counted = False
            clients.append(client)
    return clients


def _has_stored(name: str, fd: int) -> bool:
    """Whether graced has put a descriptor into the store, of this version or of another.

    A socket unit of the administrator may have a name like ours: graced-lan.socket.
    """
    if not name.startswith(PREFIX):
        return False
    if name in {LISTENERS, CLIENTS, REFUSED} or is_mirrored(name):
        return True
    return not name.endswith(".socket") and not _listens(fd)


def _listens(fd: int) -> bool:
    try:
        sock = socket(fileno=fd)
    except OSError:
        return False
    try:
        return bool(sock.getsockopt(SOL_SOCKET, SO_ACCEPTCONN))
    finally:
        sock.detach()


def is_new(client: Client) -> bool:
    """Whether client and server have not exchanged a byte."""
    # A stream handler has a state from the accept on.
    has_state = client.saved is not None and client.last != client.since
    if has_state or client.unsent or client.echoed:
        return False
    try:
        return not client.sock.recv(1, MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False


def _turn_away(clients: Iterable[Client], farewell: bytes) -> None:
    for client in clients:
        # A client that has gone needs no farewell.
        with client.sock, suppress(OSError):
            closing.part(client.sock, client.unsent + (b"" if client.told else farewell))
            closing.discard(client.sock)


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
    """The socket; None where the descriptor is no socket, and is closed."""
    try:
        os.set_inheritable(fd, False)
        sock = socket(fileno=fd)
    except OSError:
        with suppress(OSError):
            # There may be no such descriptor: sd_listen_fds(3) is believed, not checked.
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
    """A client of the last process; None where the client has departed."""
    if is_at_its_end(sock):
        sock.close()
        return None
    return _client(sock)


def _client(sock: socket) -> Client | None:
    """A client of which nothing is known but its socket; None where the connection is broken."""
    try:
        peer = sock.getpeername()
        name = sock.getsockname()
    except OSError:
        sock.close()
        return None
    host, port = (format_address(name), 0) if sock.family == AF_UNIX else peer[:2]
    return Client(sock, plain_host(host), port, GONE, monotonic())
