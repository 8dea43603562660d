"""Addresses to listen on, and how every address is written."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from functools import partial
from types import SimpleNamespace

TLS = "tls:"
"""Before the address of a listener whose clients speak TLS."""


class Address(SimpleNamespace):
    """``HOST:PORT``, ``[IPV6]:PORT``, ``*:PORT``, one of these after ``tls:``; ``unix:/PATH``."""

    host: str
    """A name or number, ``*`` for every address of both families, empty for a Unix socket."""
    port: int
    path: str
    tls: bool
    """Whether clients speak TLS."""

    def __init__(self, host: str, port: int, path: str = "", *, tls: bool = False) -> None:
        super().__init__(host=host, port=port, path=path, tls=tls)

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address.  Raises `ValueError` with the forms that are allowed."""
        if not text.isprintable():
            raise ValueError("must not contain control characters")
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            if not path.startswith("/"):
                raise ValueError("must name an absolute path after unix:")
            path = _one_name(path)
            if len(path.encode("utf-8", "surrogateescape")) > _MAX_PATH:
                raise ValueError(f"must be a path of at most {_MAX_PATH} bytes")
            return cls("", 0, path)
        # A host may have the name tls.
        tls = text.startswith(TLS) and ":" in text.removeprefix(TLS)
        if tls:
            text = text.removeprefix(TLS)
            if text.startswith("unix:"):
                raise ValueError("must have no tls: before unix:, which does not leave the device")
        host, colon, port = text.rpartition(":")
        if not colon or not host:
            raise ValueError("must be HOST:PORT, [IPV6]:PORT, *:PORT or unix:/PATH")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError("must have its IPv6 address in brackets, as in [::1]:9999")
        if not (port.isascii() and port.isdigit() and len(port) <= len("65535")):
            raise ValueError("must end in a port from 0 to 65535")
        if int(port) > _MAX_PORT:
            raise ValueError("must end in a port from 0 to 65535")
        return cls(host, int(port), tls=tls)

    def check_is_for_listening(self) -> None:
        """Raise `ValueError` where no client could ever connect, on any machine."""
        if self.path:
            if os.path.basename(self.path) in {"", ".", ".."}:
                raise ValueError("must name a socket after unix:, not a directory")
            return
        host, percent, _ = self.host.partition("%")
        if reason := unreachable(host):
            raise ValueError(f"must be an address for clients to connect to ({host} is {reason})")
        if _is_link_local(host) and not percent:
            raise ValueError(
                "must name the interface of a link-local address,"
                f" as in [{self.host}%eth0]:{self.port}"
            )

    def __str__(self) -> str:
        text = format_address(self.path or (self.host, self.port))
        return f"{TLS}{text}" if self.tls else text


def format_address(address: object) -> str:
    """The text for a socket address of any family, as in the log; any thread may call.

    `address`: a tuple that begins with host and port, or the path of a Unix socket.
    """
    if isinstance(address, tuple):
        host, port = plain_host(address[0]), address[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(address, bytes):
        address = address.decode("utf-8", "backslashreplace")
    return f"unix:{address}"


def format_listener(address: object) -> str:
    """The same for where a listener is, as the configuration has it: with the interface."""
    if isinstance(address, tuple) and len(address) > _SCOPE and address[_SCOPE]:
        host, port = address[:2]
        return format_address((f"{host}%{_interface(address[_SCOPE])}", port))
    return format_address(address)


def _interface(number: int) -> str:
    """The name of an interface; its number where it has gone."""
    try:
        return socket.if_indextoname(number)
    except OSError:
        return str(number)


def real_path(path: str) -> str:
    """The path of a Unix socket without symbolic links to its directory."""
    directory, name = os.path.split(path)
    return os.path.join(os.path.realpath(directory), name)


def _one_name(path: str) -> str:
    """The path without empty words and dots, as in unix:/d//s and unix:/d/./s."""
    *words, name = path.split("/")
    return "/".join(["", *(word for word in words if word not in {"", "."}), name])


def unreachable(host: str) -> str:
    """Why no client can connect to the number of a host; empty: a client can, or it is a name."""
    number = _number(host)
    if len(number) == _IPV4:
        reasons = {
            224 <= number[0] < 240: "that of a multicast group",
            number == b"\xff" * _IPV4: "the broadcast address",
            number[0] == 0 and any(number): "one of network 0",
        }
        return reasons.get(True, "")
    if number.startswith(bytes(10) + b"\xff\xff"):
        return f"an IPv4 address in the notation of IPv6: listen on {socket.inet_ntoa(number[12:])}"
    return "that of a multicast group" if number.startswith(b"\xff") else ""


def _number(host: str) -> bytes:
    """The bytes of a host that is given as a number; none: it is a name."""
    for read in (partial(socket.inet_pton, socket.AF_INET6), socket.inet_aton):
        with suppress(OSError):
            # inet_aton(3) and not inet_pton(3): the resolver takes 0 and 127.1 for numbers, too.
            return read(host)
    return b""


def _is_link_local(host: str) -> bool:
    number = _number(host)
    return len(number) > _IPV4 and number[0] == 0xFE and number[1] & 0xC0 == 0x80


def plain_host(host: str) -> str:
    """Return the number of a client's host in the one notation of log, fields and limits.

    A socket that serves both families names an IPv4 client ``::ffff:192.0.2.7`` (RFC 4291,
    2.5.5.2); the same client is 192.0.2.7 everywhere else.  Any thread may call.
    """
    return host.removeprefix(_MAPPED) if "." in host else host


_MAPPED = "::ffff:"
_SCOPE = 3
"""Where a socket address of IPv6 has the number of its interface."""
_IPV4 = 4
"""Bytes of an address."""
_MAX_PORT = 65535
_MAX_PATH = 107
"""sizeof(sun_path) less the terminator, unix(7)."""
