"""From addresses to listeners: listening sockets are bound, or inherited from the last process."""

from __future__ import annotations

import errno
import itertools
import os
import socket
from types import SimpleNamespace

from graced.errors import ListenError, UnresolvedError
from graced.log import events
from graced.sockets.accepted import KeepAlive, set_up_clients
from graced.sockets.address import format_address
from graced.sockets.inherited_listeners import InheritedListeners, remove_stale
from graced.sockets.listener import Listener
from graced.sockets.resolver import (
    is_answer_of_one_family,
    is_name,
    may_come_later,
    resolve,
    socket_addresses,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from graced.sockets.address import Address
    from graced.sockets.places import Places
    from graced.sockets.resolver import SockAddrs

_MAX_TRIES_FOR_ONE_PORT = 20
FIRST_UNPRIVILEGED_PORT = 1024
"""ip(7), unless ip_unprivileged_port_start says otherwise."""
_FREEBIND = {
    int(socket.AF_INET): (socket.IPPROTO_IP, 15),
    int(socket.AF_INET6): (socket.IPPROTO_IPV6, 78),
}
"""IP_FREEBIND and IPV6_FREEBIND of linux/in.h and in6.h; Python has no names for them."""
_ANY_PORT = 9
NOT_ON_THIS_MACHINE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
"""A name may stand for an address family that this machine has switched off."""


class Listening(SimpleNamespace):
    """How to listen."""

    backlog: int
    """Connections that may wait to be accepted."""
    keepalive: KeepAlive
    inherited: InheritedListeners
    """Sockets to use where an address asks for them."""
    umask: int | None = None
    """Of the path of a Unix socket; None: that of this process."""


def bind(
    addresses: Sequence[Address],
    backlog: int,
    inherited: InheritedListeners | None = None,
    keepalive: KeepAlive | None = None,
    *,
    unresolved: list[Address] | None = None,
    refused: list[tuple[Address, ListenError]] | None = None,
) -> list[Listener]:
    """Listen on every address, or on none and raise `ListenError`.

    `inherited`: sockets to use where an address asks for them; given back after an error.
    `unresolved` gets the host names that cannot be resolved now, which are an error without it.
    A name for which there are inherited sockets is not resolved, and in this list too.
    `refused` gets the addresses that cannot be listened on, which are an error without it.
    """
    inherited = inherited or InheritedListeners()
    how = Listening(backlog=backlog, keepalive=keepalive or KeepAlive(), inherited=inherited)
    found = resolve(addresses, inherited, unresolved, refused)
    # Port 0 is content with any socket: it comes last.
    order = sorted(range(len(found)), key=lambda n: not (found[n][0].path or found[n][0].port))
    bound: dict[int, list[Listener]] = {}
    try:
        for n in order:
            try:
                bound[n] = _bind(*found[n], how)
            except ListenError as error:
                if refused is None:
                    raise
                refused.append((found[n][0], error))
    except BaseException:
        for listener in itertools.chain(*bound.values()):
            inherited.give_back_or_close(listener)
        raise
    return [listener for n in sorted(bound) for listener in bound[n]]


def _bind(address: Address, found: SockAddrs, how: Listening) -> list[Listener]:
    try:
        if address.path:
            return [_bind_path(address.path, how)]
        bound = _bind_port(found, address.port, how, later=may_come_later(address))
    except OSError as error:
        raise refusal(address, error) from None
    for listener in bound if address.tls else ():
        listener.secure()
    return bound


def bind_late(
    address: Address,
    backlog: int,
    keepalive: KeepAlive,
    places: Places,
    umask: int | None = None,
) -> list[Listener]:
    """Resolve a name and listen on each of its addresses that `places` does not have yet.

    `umask`: of the start.  A daemon has one of its own by now, which denies more.

    Raises `ListenError`; `UnresolvedError` where only addresses are known that are present, and
    the name may have others.  May take as long as the resolver.
    """
    how = Listening(
        backlog=backlog, keepalive=keepalive, inherited=InheritedListeners(), umask=umask
    )
    answers = socket_addresses(address)
    missing = answers if address.path else places.missing(address, answers)
    bound = _bind(address, missing, how) if missing else []
    places.add(bound)
    if not (is_name(address) and is_answer_of_one_family(address, answers)):
        places.note(address, answers)
    elif not bound:
        raise UnresolvedError(f"cannot listen on {address}: one family of it is not resolved yet")
    return bound


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
        remove_stale(path)
        sock.bind(path)
        try:
            if how.umask is not None:
                os.chmod(path, 0o777 & ~how.umask)
            sock.listen(how.backlog)
            return Listener(sock)
        except OSError:
            os.unlink(path)
            raise
    except OSError:
        sock.close()
        raise


def _bind_port(found: SockAddrs, port: int, how: Listening, *, later: bool) -> list[Listener]:
    for _ in range(_MAX_TRIES_FOR_ONE_PORT - 1):
        try:
            return _bind_all(found, port, how, later=later)
        except OSError as error:
            # Port 0 is picked for the first family and may be taken in the second.
            if port or error.errno != errno.EADDRINUSE:
                raise
    return _bind_all(found, port, how, later=later)


def _bind_all(found: SockAddrs, port: int, how: Listening, *, later: bool) -> list[Listener]:
    """One socket for each address, all with the same port."""
    bound: list[Listener] = []
    absent: OSError | None = None
    try:
        for family, (host, _, *scope) in found:
            sock = how.inherited.take(family, host, port, *scope[1:])
            if sock:
                set_up_clients(sock, how.keepalive)
                sock.listen(how.backlog)
                bound.append(Listener(sock, inherited=True, keepalive=how.keepalive))
            else:
                try:
                    sock = _bind_beside(family, (host, port, *scope), how, later=later)
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


def _bind_beside(
    family: int, name: tuple[object, ...], how: Listening, *, later: bool
) -> socket.socket:
    """Bind a new socket; inherited sockets that make that impossible are retired."""
    port = name[1]
    assert isinstance(port, int)
    try:
        return _bind_new(family, name, how)
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL and later:
            # The network is slower than we are.
            events.ADDRESS_ABSENT(address=format_address(name))
            return _bind_new(family, name, how, freebind=True)
        if error.errno != errno.EADDRINUSE or not how.inherited.make_way(family, port):
            raise
    return _bind_new(family, name, how)


def _bind_new(
    family: int, name: tuple[object, ...], how: Listening, *, freebind: bool = False
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        set_up_clients(sock, how.keepalive)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if freebind:
            sock.setsockopt(*_FREEBIND[family], 1)
        sock.bind(name)
        check_is_no_broadcast(family, str(name[0]))
        sock.listen(how.backlog)
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def check_is_no_broadcast(family: int, host: str) -> None:
    """Raise `OSError` for the broadcast address of a network of this machine.

    bind(2) allows it, and nobody can connect.  connect(2) of a UDP socket, which sends nothing, is
    forbidden without SO_BROADCAST, and allowed with it: udp(7), ip(7).
    """
    if family != socket.AF_INET:
        return
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            forbidden = probe.connect_ex((host, _ANY_PORT)) == errno.EACCES
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            found = forbidden and not probe.connect_ex((host, _ANY_PORT))
    except OSError:
        # There is no way to know, and so no reason to refuse.
        return
    if found:
        raise OSError(errno.EINVAL, "it is the broadcast address of a network")
