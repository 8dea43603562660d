"""From an address of the configuration to socket addresses."""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager, suppress

from graced.errors import ListenError, UnresolvedError
from graced.sockets.address import unreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from graced.sockets.address import Address
    from graced.sockets.inherited_listeners import InheritedListeners

    SockAddrs = list[tuple[int, tuple[Any, ...]]]
    """Address families with socket addresses."""


_HOSTS = "/etc/hosts"
MAX_ADDRESSES = 64
"""Of a name: a name server must not use up our descriptors, nor the places in the store."""


def socket_addresses(address: Address) -> SockAddrs:
    """The socket addresses that an address stands for, port 0 or not.

    Raises `ListenError`; `UnresolvedError` where the answer may be another one later.
    """
    if address.path:
        return [(socket.AF_UNIX, (address.path,))]
    if address.host == "*":
        return [(socket.AF_INET, ("0.0.0.0", 0)), (socket.AF_INET6, ("::", 0, 0, 0))]  # noqa: S104
    if address.host == "localhost":
        # As RFC 6761 asks for; a device may have no /etc/hosts, and the resolver takes a while.
        return [(socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET6, ("::1", 0, 0, 0))]
    try:
        host = _encoded(address.host)
        # No name server knows an interface.
        flags = socket.AI_NUMERICHOST if _has_interface(address) else 0
        answers = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM, flags=flags)
    except OSError as error:
        # gaierror, or what EAI_SYSTEM stands for: no descriptor is free (EMFILE) for a moment.
        raise UnresolvedError(f"cannot listen on {address}: {error.strerror}") from None
    except UnicodeError as error:
        raise ListenError(f"cannot listen on {address}: {error}") from None
    for _, _, _, _, name in answers:
        if reason := unreachable(str(name[0])):
            raise ListenError(f"cannot listen on {address}: {name[0]} is {reason}")
    found: SockAddrs = list(dict.fromkeys((family, name) for family, _, _, _, name in answers))
    if len(found) > MAX_ADDRESSES:
        reason = f"the name has {len(found)} addresses, more than {MAX_ADDRESSES}"
        raise UnresolvedError(f"cannot listen on {address}: {reason}")
    return found


def _encoded(host: str) -> bytes:
    # As bytes: a str would load the IDNA codec, which costs a tenth of the start.
    return host.encode("ascii" if host.isascii() else "idna")


def is_answer_of_one_family(address: Address, found: SockAddrs) -> bool:
    """Whether a name has more addresses, perhaps: no name server answers for one family now.

    getaddrinfo(3) answers with the other family then, and without an error.
    """
    if _has_interface(address):
        return False
    missing = {socket.AF_INET, socket.AF_INET6} - {each for each, _ in found}
    if missing and _is_in_hosts(_encoded(address.host)):
        # Name servers are not asked.  On a device without one the question for the other family
        # alone would have no answer for ever.
        return False
    for family in missing:
        try:
            socket.getaddrinfo(
                _encoded(address.host), address.port, family, type=socket.SOCK_STREAM
            )
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                return True
        except OSError:
            return True
    return False


def _is_in_hosts(name: bytes) -> bool:
    """Whether hosts(5) has the name, with whatever addresses."""
    with suppress(OSError), open(_HOSTS, "rb") as file:
        for line in file:
            _, *names = line.partition(b"#")[0].lower().split() or [b""]
            if name.lower() in names:
                return True
    return False


def may_come_later(address: Address) -> bool:
    """Whether this machine may be given the address while we serve."""
    return not address.path and address.host not in {"*", "localhost"}


def may_move(address: Address) -> bool:
    """Whether another listener may be needed for the address while we serve.

    Not at port 0: each look would find another port.
    """
    return bool(address.path or (address.port and is_name(address)))


def resolve(
    addresses: Sequence[Address],
    inherited: InheritedListeners,
    unresolved: list[Address] | None,
    refused: list[tuple[Address, ListenError]] | None = None,
) -> list[tuple[Address, SockAddrs]]:
    """Each address with its socket addresses, for `graced.sockets.binding.bind`.

    Raises `ListenError`.
    """
    late: set[int] = set()
    if unresolved is not None:
        late = {n for n, address in enumerate(addresses) if is_name(address)}
    found = {n: socket_addresses(each) for n, each in enumerate(addresses) if n not in late}
    others = {(family, name[0], addresses[n].port) for n in found for family, name in found[n]}
    used: set[int] = set()
    """Ports whose inherited listeners a name has taken.  Nobody knows which were another name's."""
    with _impatience():
        for n in sorted(late, key=lambda n: (not _has_interface(addresses[n]), n)):
            address = addresses[n]
            port = address.port
            # A resolver that is dead must not hold up a restart.
            old = [] if _has_interface(address) else inherited.at(port)
            found[n] = [(fam, name) for fam, name in old if (fam, name[0], port) not in others]
            complete = False
            if found[n]:
                used.add(port)
            elif port not in used or _has_interface(address):
                try:
                    found[n] = socket_addresses(address)
                    complete = not is_answer_of_one_family(address, found[n])
                except UnresolvedError:
                    # The answer may be another one later.
                    complete = False
                except ListenError as error:
                    if refused is None:
                        raise
                    refused.append((address, error))
                    continue
            others |= {(family, name[0], port) for family, name in found[n]}
            if unresolved is not None and not complete:
                unresolved.append(address)
    return [(address, found[n]) for n, address in enumerate(addresses)]


@contextmanager
def _impatience() -> Iterator[None]:
    """Let the resolver ask each name server once, for a second: resolv.conf(5).

    For the calling thread, before another thread runs.
    """
    name = "RES_OPTIONS"
    if name in os.environ:
        yield
        return
    os.environ[name] = "timeout:1 attempts:1"
    try:
        yield
    finally:
        del os.environ[name]


def _has_interface(address: Address) -> bool:
    """Whether an address is a number with an interface, as in [fe80::5%eth0]:9999.

    The interface may come later, or again with another number.
    """
    host, percent, _ = address.host.partition("%")
    with suppress(OSError):
        return bool(percent and socket.inet_pton(socket.AF_INET6, host))
    return False


def is_name(address: Address) -> bool:
    """Whether an address needs a resolver, or an interface."""
    if not may_come_later(address):
        return False
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            socket.inet_pton(family, address.host)
            return False
    return True
