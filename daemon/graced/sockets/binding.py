"""From addresses to listeners: listening sockets are bound, or inherited from the last process."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import stat
from contextlib import suppress
from types import SimpleNamespace

from graced.errors import ListenError
from graced.log import events
from graced.sockets.accepted import KeepAlive, set_up_clients
from graced.sockets.address import format_address
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
_FREEBIND = {
    int(socket.AF_INET): (socket.IPPROTO_IP, 15),
    int(socket.AF_INET6): (socket.IPPROTO_IPV6, 78),
}
"""IP_FREEBIND and IPV6_FREEBIND of linux/in.h and in6.h; Python has no names for them."""
_SO_NETNS_COOKIE = 71
"""asm-generic/socket.h, Linux 5.14 and newer; Python has no name for it."""
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
                if difference := _difference(sock):
                    name = format_address(sock.getsockname())
                    events.LISTENER_NOT_INHERITED(address=name, reason=difference)
                    continue
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

    def make_way(self, family: int, place: object) -> bool:
        """Retire the sockets at a port or path, and return whether there was one.

        The next `retire` returns their connections.
        """
        in_the_way = [s for s in self.sockets if s.family == family and _place(s) == place]
        for sock in in_the_way:
            self.sockets.remove(sock)
            self._connections += _retire(sock)
        return bool(in_the_way)


class Listening(SimpleNamespace):
    """How to listen."""

    backlog: int
    """Connections that may wait to be accepted."""
    keepalive: KeepAlive
    inherited: InheritedListeners
    """Sockets to use where an address asks for them."""
    freebind: bool = False
    """Whether an address that this machine does not have may be bound, ip(7)."""


def bind(
    addresses: Sequence[Address],
    backlog: int,
    inherited: InheritedListeners | None = None,
    keepalive: KeepAlive | None = None,
) -> list[Listener]:
    """Listen on every address, or on none and raise `ListenError`.

    `inherited`: sockets to use where an address asks for them; given back after an error.
    """
    inherited = inherited or InheritedListeners()
    how = Listening(backlog=backlog, keepalive=keepalive or KeepAlive(), inherited=inherited)
    found = [(address, socket_addresses(address)) for address in addresses]
    # Port 0 is content with any socket: it comes last.
    order = sorted(range(len(found)), key=lambda n: not (found[n][0].path or found[n][0].port))
    bound: dict[int, list[Listener]] = {}
    try:
        for n in order:
            bound[n] = _bind(*found[n], how)
    except BaseException:
        for listener in itertools.chain(*bound.values()):
            inherited.give_back_or_close(listener)
        raise
    return [listener for n in sorted(bound) for listener in bound[n]]


def _place(sock: socket.socket) -> object:
    """The port of a TCP socket, the path of a Unix socket."""
    name = sock.getsockname()
    return name if sock.family == socket.AF_UNIX else name[1]


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
        return bool(name == host)
    if family == socket.AF_INET6 and name[3] != interface:
        return False
    return bool(name[:2] == (host, port or name[1]))


def _difference(sock: socket.socket) -> str:
    """How a listening socket of the last process differs from one that would be bound now.

    Empty: not at all.  Clients would not reach such a socket, or others would than may.
    """
    if sock.family != socket.AF_UNIX:
        return "" if _is_in_our_network(sock) else "it is in another network namespace"
    path = sock.getsockname()
    try:
        status = os.stat(path)
    except OSError as error:
        return f"its path: {error.strerror}"
    os.umask(umask := os.umask(0))
    if not stat.S_ISSOCK(status.st_mode) or not _is_alive(path):
        return "its path leads to something else"
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
        return f"its path belongs to user {status.st_uid}, group {status.st_gid}"
    mode, ours = stat.S_IMODE(status.st_mode), 0o777 & ~umask
    return "" if mode == ours else f"its path has mode {mode:04o}, and would have {ours:04o} now"


def _is_alive(path: str) -> bool:
    """Whether a process has the socket of a path: connect(2) finds one, of another type."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except OSError as error:
            return error.errno == errno.EPROTOTYPE
    return False


def _is_in_our_network(sock: socket.socket) -> bool:
    """Whether clients of our network namespace reach a socket.  True where the kernel is old."""
    try:
        cookie = sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        with socket.socket(sock.family, socket.SOCK_STREAM) as ours:
            return cookie == ours.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    except OSError:
        return True


def _bind(address: Address, found: _SockAddrs, how: Listening) -> list[Listener]:
    try:
        if address.path:
            return [_bind_path(address.path, how)]
        try:
            return _bind_port(found, address.port, how)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL or not may_come_later(address):
                raise
        # The network is slower than we are: the address serves as soon as this machine has it.
        later = Listening(**vars(how), freebind=True)
        listeners = _bind_port(found, address.port, later)
    except OSError as error:
        raise refusal(address, error) from None
    events.ADDRESS_ABSENT(address=address)
    return listeners


def may_come_later(address: Address) -> bool:
    """Whether this machine may be given the address while we serve."""
    return not address.path and address.host not in {"*", "localhost"}


def refusal(address: Address, error: OSError) -> ListenError:
    """The error of a start for which an address cannot be listened on."""
    hint = ""
    if error.errno == errno.EACCES and 0 < address.port < FIRST_UNPRIVILEGED_PORT:
        hint = "; a port below 1024 is for graced.socket to open, see graced(8)"
    return ListenError(f"cannot listen on {address}: {error.strerror or error}{hint}")


def _bind_path(path: str, how: Listening) -> Listener:
    sock = how.inherited.take(socket.AF_UNIX, path, 0)
    if sock:
        sock.listen(how.backlog)
        return Listener(sock, inherited=True)
    how.inherited.make_way(socket.AF_UNIX, path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        _remove_stale(path)
        sock.bind(path)
        try:
            sock.listen(how.backlog)
            return Listener(sock)
        except OSError:
            os.unlink(path)
            raise
    except OSError:
        sock.close()
        raise


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


def _bind_port(found: _SockAddrs, port: int, how: Listening) -> list[Listener]:
    for _ in range(_MAX_TRIES_FOR_ONE_PORT - 1):
        try:
            return _bind_all(found, port, how)
        except OSError as error:
            # Port 0 is picked for the first family and may be taken in the second.
            if port or error.errno != errno.EADDRINUSE:
                raise
    return _bind_all(found, port, how)


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


def _bind_all(found: _SockAddrs, port: int, how: Listening) -> list[Listener]:
    """One socket for each address, all with the same port."""
    bound: list[Listener] = []
    absent: OSError | None = None
    try:
        for family, (host, _, *scope) in found:
            sock = how.inherited.take(family, host, port, *scope[1:])
            if sock:
                set_up_clients(sock, how.keepalive)
                sock.listen(how.backlog)
                bound.append(Listener(sock, inherited=True))
            else:
                try:
                    sock = _bind_beside(family, (host, port, *scope), how)
                except OSError as error:
                    if error.errno not in NOT_ON_THIS_MACHINE:
                        raise
                    absent = error
                    continue
                bound.append(Listener(sock))
            port = sock.getsockname()[1]
    except BaseException:
        for listener in bound:
            how.inherited.give_back_or_close(listener)
        raise
    if absent and not bound:
        raise absent
    return bound


def _bind_beside(family: int, name: tuple[object, ...], how: Listening) -> socket.socket:
    """Bind a new socket; inherited sockets that make that impossible are retired."""
    port = name[1]
    assert isinstance(port, int)
    try:
        return _bind_new(family, name, how)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not how.inherited.make_way(family, port):
            raise
    return _bind_new(family, name, how)


def _bind_new(family: int, name: tuple[object, ...], how: Listening) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        set_up_clients(sock, how.keepalive)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if how.freebind:
            sock.setsockopt(*_FREEBIND[family], 1)
        sock.bind(name)
        sock.listen(how.backlog)
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock
