"""Listening sockets: bound here or passed by systemd."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import stat
import struct
from array import array
from contextlib import suppress

from graced.errors import ListenError
from graced.sockets.address import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping, Sequence
    from typing import Any

    _Places = list[tuple[int, tuple[object, ...]]]
    """Address families with socket addresses."""

_FIRST_PASSED_FD = 3
_TRIES_FOR_ONE_PORT = 20
FIRST_UNPRIVILEGED_PORT = 1024
"""ip(7), unless ip_unprivileged_port_start says otherwise."""
NOT_ON_THIS_MACHINE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
"""A name may stand for an address family that this machine has switched off."""


_SO_ATTACH_FILTER = 26
"""asm-generic/socket.h; Python has no name for it."""
_INSTRUCTION = 8
_DROP_SYN = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # ldb [13]: the flags of the TCP header
        (0x45, 0, 1, 0x02),  # jset #SYN, next, skip
        (0x06, 0, 0, 0),  # ret #0: drop
        (0x06, 0, 0, 0xFFFFFFFF),  # ret #-1: keep
    )
)
"""Classic BPF (the kernel's networking/filter.rst).  What comes back to a SYN-ACK that has been
sent is no SYN, so a connection that is being made is not lost."""


class Listener:
    """One listening socket, and what becomes of it at the end."""

    fallible = False

    def __init__(self, sock: socket.socket, *, passed: bool = False) -> None:
        self.sock = sock
        self.passed = passed
        """Whether it belongs to the service manager and stays open when we stop."""
        self.name = display(sock.getsockname())
        self._accept = sock._accept  # type: ignore[attr-defined]
        # Plain numbers: the socket's own attributes are made into an enum at each look.
        self._family, self._type = int(sock.family), int(sock.type)
        self._path = ""
        self._inode = 0
        if sock.family == socket.AF_UNIX and not passed:
            self._path = sock.getsockname()
            self._inode = os.stat(self._path).st_ino

    def accept(self) -> tuple[socket.socket, Any]:
        """As `socket.accept`, without what its Python wrapper costs for each client."""
        fd, peer = self._accept()
        return socket.socket(self._family, self._type, 0, fd), peer

    def shut(self) -> None:
        """Let nobody come any more; who is in the queue already can still be accepted.

        Closing resets whoever is in the queue, so there must be nobody when it happens.  New
        connections to a port are dropped by a filter, as if it were busy: their kernel tries
        again a second later, when this server is gone or the next one there.
        """
        with suppress(OSError):
            if self.sock.family == socket.AF_UNIX:
                self.sock.shutdown(socket.SHUT_RD)
            else:
                program = array("B", _DROP_SYN)
                address, length = program.buffer_info()
                filter_program = struct.pack("HP", length // _INSTRUCTION, address)
                self.sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_program)

    def leave(self) -> None:
        """Leave the path of a Unix socket alone: the next start listens there."""
        self._path = ""

    def close(self) -> None:
        """Close it, and remove the path of a Unix socket if it still is ours."""
        self.sock.close()
        if self._path:
            try:
                if os.stat(self._path).st_ino == self._inode:
                    os.unlink(self._path)
            except OSError:
                # Gone already, or in a directory we may no longer write to: no harm is done.
                self._path = ""


def display(address: object) -> str:
    """A socket address as people write it; any thread may call."""
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(address, bytes):
        address = address.decode("utf-8", "backslashreplace")
    return f"unix:{address}"


def bind(
    addresses: Sequence[Address], backlog: int, kept: Iterable[socket.socket] = ()
) -> list[Listener]:
    """Listen on all of them, or on none and raise `ListenError`.

    `kept`: sockets of the last process.  Those that are still asked for are used, the others are
    closed before anything is bound: they may stand in its way.
    """
    found = [(address, places(address)) for address in addresses]
    left = [sock for sock in kept if _is_asked_for(sock, found)]
    # Port 0 is content with any socket: it comes last.
    order = sorted(range(len(found)), key=lambda n: not (found[n][0].path or found[n][0].port))
    bound: dict[int, list[Listener]] = {}
    try:
        for n in order:
            bound[n] = [Listener(sock) for sock in _bind(*found[n], backlog, left)]
    except BaseException:
        for listener in itertools.chain(*bound.values()):
            listener.close()
        raise
    finally:
        for sock in left:
            sock.close()
    return [listener for n in sorted(bound) for listener in bound[n]]


def _is_asked_for(sock: socket.socket, places: Iterable[tuple[Address, _Places]]) -> bool:
    """Whether it listens at one of them; where it does not it is closed."""
    for address, found in places:
        if any(_is_at(sock, family, host, address.port) for family, (host, *_) in found):
            return True
    name = sock.getsockname()
    with suppress(OSError):
        # The service manager has a copy, and closes it when it likes.
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
    if isinstance(name, str) and name:
        with suppress(OSError):
            # A path that nobody listens at is in nobody's way.
            _remove_stale(name)
    return False


def places(address: Address) -> _Places:
    """The socket addresses that an address stands for, with a port of 0."""
    return [(socket.AF_UNIX, (address.path,))] if address.path else _resolve(address)


def _is_at(sock: socket.socket, family: int, host: object, port: int) -> bool:
    """Whether it listens there; port 0: at any port."""
    if sock.family != family:
        return False
    name = sock.getsockname()
    if family == socket.AF_UNIX:
        # Nobody reaches it where its path has gone.
        return bool(name == host and os.path.exists(name))
    return bool(name[:2] == (host, port or name[1]))


def _take(
    kept: list[socket.socket], family: int, host: object, port: int, backlog: int
) -> socket.socket | None:
    """Of the sockets that the last process has left, the one that is there."""
    for sock in kept:
        if _is_at(sock, family, host, port):
            kept.remove(sock)
            sock.listen(backlog)
            return sock
    return None


def _bind(
    address: Address, places: _Places, backlog: int, kept: list[socket.socket]
) -> list[socket.socket]:
    try:
        if address.path:
            last = _take(kept, socket.AF_UNIX, address.path, 0, backlog)
            return [last or _bind_path(address.path, backlog)]
        return _bind_port(places, address.port, backlog, kept)
    except OSError as error:
        raise refusal(address, error) from None


def refusal(address: Address, error: OSError) -> ListenError:
    """The error of a start for which an address cannot be listened on."""
    hint = ""
    if error.errno == errno.EACCES and 0 < address.port < FIRST_UNPRIVILEGED_PORT:
        hint = "; a port below 1024 is for graced.socket to open, see graced(8)"
    return ListenError(f"cannot listen on {address}: {error.strerror or error}{hint}")


def _bind_path(path: str, backlog: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
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
    sock.setblocking(False)
    return sock


def _remove_stale(path: str) -> None:
    """Remove the socket of a server that is gone; leave everything else alone."""
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
            return


def _bind_port(
    found: _Places, port: int, backlog: int, kept: list[socket.socket]
) -> list[socket.socket]:
    for _ in range(_TRIES_FOR_ONE_PORT - 1):
        try:
            return _bind_all(found, port, backlog, kept)
        except OSError as error:
            # Port 0 is picked for the first family and may be taken in the second.
            if port or error.errno != errno.EADDRINUSE:
                raise
    return _bind_all(found, port, backlog, kept)


def _resolve(address: Address) -> _Places:
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
    found: _Places,
    port: int,
    backlog: int,
    kept: list[socket.socket],
) -> list[socket.socket]:
    """One socket for each address, all with the same port."""
    bound: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, (host, _, *scope) in found:
            last = _take(kept, family, host, port, backlog)
            if last:
                bound.append(last)
                port = last.getsockname()[1]
                continue
            sock = None
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                _set_up_clients(sock)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((host, port, *scope))
                sock.listen(backlog)
            except OSError as error:
                if sock is not None:
                    sock.close()
                if error.errno not in NOT_ON_THIS_MACHINE:
                    raise
                absent = error
                continue
            bound.append(sock)
            sock.setblocking(False)
            port = sock.getsockname()[1]
    except BaseException:
        for sock in bound:
            sock.close()
        raise
    if absent and not bound:
        raise absent
    return bound


def _set_up_clients(sock: socket.socket) -> None:
    """Set here what accepted sockets inherit: no system call for each client."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A client whose power was cut would otherwise keep its place until the next restart; the
    # kernel asks after two hours and wakes nobody up for it.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def passed(environ: MutableMapping[str, str], pid: int) -> list[tuple[int, str]]:
    """The descriptors that a service manager passed to this process, with their names.

    To be called before any fork, in the process that was started; takes the variables away so
    that no child believes them (sd_listen_fds_with_names(3)).  Raises `ListenError` where they
    make no sense.
    """
    keys = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    values = {name: environ.pop(name, "") for name in keys}
    if not values["LISTEN_FDS"] or values["LISTEN_PID"] != str(pid):
        return []
    number = values["LISTEN_FDS"]
    if not (number.isascii() and number.isdigit() and len(number) <= len("65535")):
        raise ListenError(f"LISTEN_FDS must be a number of descriptors, not {number[:40]!r}")
    descriptors = range(_FIRST_PASSED_FD, _FIRST_PASSED_FD + int(number))
    names = values["LISTEN_FDNAMES"].split(":")
    names += [""] * (len(descriptors) - len(names))
    return list(zip(descriptors, names, strict=False))


def adopt(descriptors: Sequence[int]) -> list[Listener]:
    """Listen on sockets that belong to the service manager.

    Raises `ListenError` where one of them is nothing to listen on.
    """
    for fd in descriptors:
        _check_passed(fd)
    return [_adopt(fd) for fd in descriptors]


def _check_passed(fd: int) -> None:
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise ListenError(f"passed descriptor {fd} is no socket: {error.strerror}") from None
    try:
        listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if not listening or sock.type != socket.SOCK_STREAM:
            raise ListenError(f"passed descriptor {fd} is no listening stream socket")
    finally:
        sock.detach()


def _adopt(fd: int) -> Listener:
    sock = socket.socket(fileno=fd)
    os.set_inheritable(fd, False)
    sock.setblocking(False)
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        _set_up_clients(sock)
    return Listener(sock, passed=True)
