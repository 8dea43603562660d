"""From addresses to listeners: listening sockets are bound, or inherited from the last process."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import stat
from contextlib import suppress

from graced.errors import ListenError
from graced.sockets.listener import Listener, refuses_connections

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from graced.sockets.address import Address

    _SockAddrs = list[tuple[int, tuple[object, ...]]]
    """Address families with socket addresses."""

_MAX_TRIES_FOR_ONE_PORT = 20
FIRST_UNPRIVILEGED_PORT = 1024
"""ip(7), unless ip_unprivileged_port_start says otherwise."""
NOT_ON_THIS_MACHINE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
"""A name may stand for an address family that this machine has switched off."""


class InheritedListeners:
    """Listening sockets of the last process.  For one thread at a time.

    `bind` takes the sockets that an address asks for.  The others stay open, with the clients in
    their queues, until `retire` or until a new socket cannot be bound beside them.
    """

    def __init__(self, sockets: Iterable[socket.socket] = ()) -> None:
        self.sockets = list(sockets)
        self._connections: list[socket.socket] = []

    def take(
        self, family: int, host: object, port: int, interface: object = 0
    ) -> socket.socket | None:
        """Give out the socket that listens at an address; port 0: at any port of the host.

        `interface`: the number of the interface of a link-local address.
        """
        for sock in self.sockets:
            if _is_at(sock, family, host, port, interface) and not refuses_connections(sock):
                self.sockets.remove(sock)
                return sock
        return None

    def give_back_or_close(self, listener: Listener) -> None:
        """Undo `take` for a listener that is not used; close a listener that is not inherited."""
        if listener.inherited:
            self.sockets.append(listener.sock)
        else:
            listener.close()

    def retire(self) -> list[socket.socket]:
        """Close the sockets; return the connections from their queues, which the caller owns."""
        for sock in self.sockets:
            self._connections += _retire(sock)
        self.sockets.clear()
        connections, self._connections = self._connections, []
        return connections

    def close(self) -> None:
        """Close our copies of the sockets, and nothing else."""
        for sock in (*self.sockets, *self._connections):
            sock.close()

    def make_way(self, family: int, port: int) -> bool:
        """Retire the sockets at a port, and return whether there was one.

        The next `retire` returns their connections.
        """
        in_the_way = [s for s in self.sockets if s.family == family and s.getsockname()[1] == port]
        for sock in in_the_way:
            self.sockets.remove(sock)
            self._connections += _retire(sock)
        return bool(in_the_way)


def bind(
    addresses: Sequence[Address], backlog: int, inherited: InheritedListeners | None = None
) -> list[Listener]:
    """Listen on every address, or on none and raise `ListenError`.

    `inherited`: sockets to use where an address asks for them; given back after an error.
    """
    inherited = inherited or InheritedListeners()
    found = [(address, socket_addresses(address)) for address in addresses]
    # Port 0 is content with any socket: it comes last.
    order = sorted(range(len(found)), key=lambda n: not (found[n][0].path or found[n][0].port))
    bound: dict[int, list[Listener]] = {}
    try:
        for n in order:
            bound[n] = _bind(*found[n], backlog, inherited)
    except BaseException:
        for listener in itertools.chain(*bound.values()):
            inherited.give_back_or_close(listener)
        raise
    return [listener for n in sorted(bound) for listener in bound[n]]


def _retire(sock: socket.socket) -> list[socket.socket]:
    """Close a listening socket of every process that has it; return the connections in its queue.

    The service manager closes its copy later, and clients must not wait in the queue until then.
    """
    name = sock.getsockname()
    connections = []
    if not refuses_connections(sock):
        connections = list(Listener(sock, inherited=True).last_connections())
    with suppress(OSError):
        # ENOTCONN: another process has shut it before.
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
    if isinstance(name, str) and name:
        with suppress(OSError):
            # A path at which nobody listens is in nobody's way.
            _remove_stale(name)
    return connections


def _is_at(sock: socket.socket, family: int, host: object, port: int, interface: object) -> bool:
    """Whether the socket listens at an address; port 0: at any port."""
    if sock.family != family:
        return False
    name = sock.getsockname()
    if family == socket.AF_UNIX:
        # No client reaches a socket whose path has been removed.
        return bool(name == host and os.path.exists(name))
    if family == socket.AF_INET6 and name[3] != interface:
        return False
    return bool(name[:2] == (host, port or name[1]))


def _bind(
    address: Address, found: _SockAddrs, backlog: int, inherited: InheritedListeners
) -> list[Listener]:
    try:
        if address.path:
            return [_bind_path(address.path, backlog, inherited)]
        return _bind_port(found, address.port, backlog, inherited)
    except OSError as error:
        raise refusal(address, error) from None


def refusal(address: Address, error: OSError) -> ListenError:
    """The error of a start for which an address cannot be listened on."""
    hint = ""
    if error.errno == errno.EACCES and 0 < address.port < FIRST_UNPRIVILEGED_PORT:
        hint = "; a port below 1024 is for graced.socket to open, see graced(8)"
    return ListenError(f"cannot listen on {address}: {error.strerror or error}{hint}")


def _bind_path(path: str, backlog: int, inherited: InheritedListeners) -> Listener:
    sock = inherited.take(socket.AF_UNIX, path, 0)
    if sock:
        sock.listen(backlog)
        return Listener(sock, inherited=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        _remove_stale(path)
        sock.bind(path)
        try:
            sock.listen(backlog)
        except OSError:
            os.unlink(path)
            raise
    except OSError:
        sock.close()
        raise
    return Listener(sock)


def _remove_stale(path: str) -> None:
    """Remove the path of a Unix socket at which nobody listens, and nothing else."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            # Somebody listens, or it is not ours to look: bind(2) says what is in the way.
            return


def _bind_port(
    found: _SockAddrs, port: int, backlog: int, inherited: InheritedListeners
) -> list[Listener]:
    for _ in range(_MAX_TRIES_FOR_ONE_PORT - 1):
        try:
            return _bind_all(found, port, backlog, inherited)
        except OSError as error:
            # Port 0 is picked for the first family and may be taken in the second.
            if port or error.errno != errno.EADDRINUSE:
                raise
    return _bind_all(found, port, backlog, inherited)


def socket_addresses(address: Address) -> _SockAddrs:
    """The socket addresses that an address stands for, port 0 or not.  Raises `ListenError`."""
    if address.path:
        return [(socket.AF_UNIX, (address.path,))]
    if address.host == "*":
        return [(socket.AF_INET, ("0.0.0.0", 0)), (socket.AF_INET6, ("::", 0, 0, 0))]  # noqa: S104
    if address.host == "localhost":
        # As RFC 6761 asks for; a device may have no /etc/hosts, and the resolver takes a while.
        return [(socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET6, ("::1", 0, 0, 0))]
    try:
        # As bytes: a str would load the IDNA codec, which costs a tenth of the start.
        host = address.host.encode("ascii" if address.host.isascii() else "idna")
        answers = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ListenError(f"cannot listen on {address}: {reason}") from None
    return list(dict.fromkeys((family, name) for family, _, _, _, name in answers))


def _bind_all(
    found: _SockAddrs, port: int, backlog: int, inherited: InheritedListeners
) -> list[Listener]:
    """One socket for each address, all with the same port."""
    bound: list[Listener] = []
    absent: OSError | None = None
    try:
        for family, (host, _, *scope) in found:
            sock = inherited.take(family, host, port, *scope[1:])
            if sock:
                sock.listen(backlog)
                bound.append(Listener(sock, inherited=True))
            else:
                try:
                    sock = _bind_beside(family, (host, port, *scope), backlog, inherited)
                except OSError as error:
                    if error.errno not in NOT_ON_THIS_MACHINE:
                        raise
                    absent = error
                    continue
                bound.append(Listener(sock))
            port = sock.getsockname()[1]
    except BaseException:
        for listener in bound:
            inherited.give_back_or_close(listener)
        raise
    if absent and not bound:
        raise absent
    return bound


def _bind_beside(
    family: int, name: tuple[object, ...], backlog: int, inherited: InheritedListeners
) -> socket.socket:
    """Bind a new socket; inherited sockets that make that impossible are retired."""
    port = name[1]
    assert isinstance(port, int)
    try:
        return _bind_new(family, name, backlog)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not inherited.make_way(family, port):
            raise
    return _bind_new(family, name, backlog)


def _bind_new(family: int, name: tuple[object, ...], backlog: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        set_up_clients(sock)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(name)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def set_up_clients(sock: socket.socket) -> None:
    """Set on a listening TCP socket what accepted sockets inherit: no system call per client."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A client whose power was cut would otherwise keep its place until the next restart; the
    # kernel asks after two hours and wakes nobody up for it.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
