"""Listening sockets of the last process, and whether they are used again."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress

from graced.log import events
from graced.sockets.address import format_listener, real_path
from graced.sockets.listener import Listener, bound_interface, leads_to, refuses_connections

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_SO_NETNS_COOKIE = 71
"""asm-generic/socket.h, Linux 5.14 and newer; Python has no name for it."""
_SO_DETACH_FILTER = 27
_OPTIONS = {
    "SO_DONTROUTE": (socket.SOL_SOCKET, socket.SO_DONTROUTE),
    "SO_LINGER": (socket.SOL_SOCKET, socket.SO_LINGER),
    "SO_LOCK_FILTER": (socket.SOL_SOCKET, 44),
    "SO_MARK": (socket.SOL_SOCKET, socket.SO_MARK),
    "SO_RCVLOWAT": (socket.SOL_SOCKET, socket.SO_RCVLOWAT),
    "TCP_CORK": (socket.IPPROTO_TCP, socket.TCP_CORK),
    "TCP_DEFER_ACCEPT": (socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT),
    "TCP_MAXSEG": (socket.IPPROTO_TCP, socket.TCP_MAXSEG),
    "IP_MINTTL": (socket.IPPROTO_IP, 21),
    "IP_TRANSPARENT": (socket.IPPROTO_IP, 19),
    "IP_TTL": (socket.IPPROTO_IP, socket.IP_TTL),
    "IPV6_MINHOPCOUNT": (socket.IPPROTO_IPV6, 73),
    "IPV6_TRANSPARENT": (socket.IPPROTO_IPV6, 75),
    "IPV6_UNICAST_HOPS": (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS),
}
"""Options that graced does not set, and that decide which clients reach a socket, or what becomes
of them.  Some have no name in Python."""
_LONGEST_OPTION = 8
"""Bytes: of SO_LINGER."""
_OFF = bytes(4)
"""A number, as the kernel writes it."""


class InheritedListeners:
    """Listening sockets of the last process.  For one thread at a time.

    `bind` takes the sockets that an address asks for.  The others stay open, with the clients in
    their queues, until `retire` or until a new socket cannot be bound beside them.
    """

    def __init__(self, sockets: Iterable[socket.socket] = (), *, in_use: bool = False) -> None:
        """`in_use`: the last process serves yet, and none of the sockets makes way."""
        self.sockets = list(sockets)
        self._in_use = in_use
        self._connections: list[socket.socket] = []

    def take(
        self, family: int, host: object, port: int, interface: object = 0
    ) -> socket.socket | None:
        """Give out the socket that listens at an address; port 0: at any port of the host.

        `interface`: the number of the interface of a link-local address.
        """
        for sock in self.sockets:
            if _is_at(sock, family, host, port, interface) and not refuses_connections(sock):
                if difference := _difference(sock, interface):
                    name = format_listener(sock.getsockname())
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

    def at(self, port: int) -> list[tuple[int, tuple[Any, ...]]]:
        """The address families and socket addresses of the TCP sockets at a port."""
        return [
            (int(sock.family), sock.getsockname())
            for sock in self.sockets
            if sock.family != socket.AF_UNIX and _place(sock) == port
        ]

    def retire(self) -> list[socket.socket]:
        """Close the sockets; return the connections from their queues, which the caller owns."""
        for sock in self.sockets:
            self._connections += retire(sock)
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
        if self._in_use:
            return False
        place = real_path(place) if isinstance(place, str) else place
        in_the_way = [s for s in self.sockets if s.family == family and _place(s) == place]
        for sock in in_the_way:
            self.sockets.remove(sock)
            self._connections += retire(sock)
        return bool(in_the_way)


def _place(sock: socket.socket) -> object:
    """The port of a TCP socket, the path of a Unix socket."""
    name = sock.getsockname()
    return real_path(name) if sock.family == socket.AF_UNIX else name[1]


def retire(sock: socket.socket) -> list[socket.socket]:
    """Close a listening socket of every process that has it; return the connections in its queue.

    The service manager closes its copy later, and clients must not wait in the queue until then.
    """
    name = sock.getsockname()
    stale = isinstance(name, str) and bool(name) and _leads_to(name, sock)
    connections = []
    if not refuses_connections(sock):
        connections = list(Listener(sock, inherited=True).last_connections())
    with suppress(OSError):
        # ENOTCONN: another process has shut it before.
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
    if stale:
        with suppress(OSError):
            # A path at which nobody listens is in nobody's way.
            remove_stale(name)
    return connections


def _leads_to(path: str, sock: socket.socket) -> bool:
    """Whether a path may lead to a Unix socket.  Another socket there is another program's."""
    try:
        return leads_to(os.stat(path), sock)
    except OSError:
        return False


def remove_stale(path: str) -> None:
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


def _is_at(sock: socket.socket, family: int, host: object, port: int, interface: object) -> bool:
    """Whether the socket listens at an address; port 0: at any port."""
    if sock.family != family:
        return False
    name = sock.getsockname()
    if family == socket.AF_UNIX:
        return real_path(name) == real_path(str(host))
    if family == socket.AF_INET6 and name[3] != interface:
        return False
    return bool(name[:2] == (host, port or name[1]))


def _difference(sock: socket.socket, interface: object) -> str:
    """How a listening socket of the last process differs from one that would be bound now.

    Empty: not at all.  Clients would not reach such a socket, or others would than may.
    """
    if sock.family != socket.AF_UNIX:
        if not _is_in_our_network(sock):
            return "it is in another network namespace"
        return _difference_of_options(sock, interface)
    path = sock.getsockname()
    try:
        status = os.stat(path)
    except OSError as error:
        return f"its path: {error.strerror}"
    os.umask(umask := os.umask(0))
    if not (stat.S_ISSOCK(status.st_mode) and is_alive(path) and leads_to(status, sock)):
        return "its path leads to something else"
    if (status.st_uid, status.st_gid) != (os.geteuid(), _group_at(path)):
        return f"its path belongs to user {status.st_uid}, group {status.st_gid}"
    mode, ours = stat.S_IMODE(status.st_mode), 0o777 & ~umask
    return "" if mode == ours else f"its path has mode {mode:04o}, and would have {ours:04o} now"


def _group_at(path: str) -> int:
    """The group that a new socket would have: that of a set-group-id directory, or our own."""
    directory = os.stat(os.path.dirname(path) or ".")
    return directory.st_gid if directory.st_mode & stat.S_ISGID else os.getegid()


def _difference_of_options(sock: socket.socket, interface: object) -> str:
    """The same for the options of a TCP socket that say which clients reach the socket.

    Compared with a new socket, which a control group may have bound to an interface or marked.
    """
    with suppress(OSError):
        # ENOENT: it has none, or one that is locked, which SO_LOCK_FILTER tells.
        sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        return "it has a filter"
    with suppress(OSError), socket.socket(sock.family, socket.SOCK_STREAM) as new:
        if bound_interface(sock) not in {bound_interface(new), interface}:
            return "it is bound to an interface"
        shares = (socket.SOL_SOCKET, socket.SO_REUSEPORT)
        if _option(sock, *shares) != _option(new, *shares):
            return "another process may share its address (SO_REUSEPORT)"
        if _option(sock, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == _OFF:
            return "it takes IPv4 clients as well"
        for name, option in _OPTIONS.items():
            if _option(sock, *option) != _option(new, *option):
                return f"its option {name} is another"
    return ""


def _option(sock: socket.socket, level: int, option: int) -> bytes:
    """The value of an option; empty where the kernel has none, or a container forbids to ask."""
    try:
        return sock.getsockopt(level, option, _LONGEST_OPTION)
    except OSError:
        return b""


def is_alive(path: str) -> bool:
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
