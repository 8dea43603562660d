"""The header of HAProxy's PROXY protocol, versions 1 and 2: who the client behind a proxy is.

The specification is doc/proxy-protocol.txt of HAProxy.  Nothing is guessed: what is not a header in
every byte that has a meaning is refused.  The values behind the addresses (type, length, value) are
skipped.
"""

from __future__ import annotations

import re
import struct
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from types import SimpleNamespace

from graced.sockets.address import plain_host

LONGEST_HEADER = 4096
"""Bytes; a header of version 2 could have 65551.  Proxies send some hundred at most."""
_LONGEST_LINE = 107
"""Bytes of a header of version 1 (section 2.1)."""
_BEGIN_1 = b"PROXY "
_BEGIN_2 = b"\r\n\r\n\0\r\nQUIT\n"
_HEAD_2 = struct.Struct("!12sBBH")
"""signature; version and command; family and protocol; bytes that follow"""
_LOCAL, _PROXY = 0x20, 0x21
_UNSPECIFIED = 0x00
_UNIX = 0x31
"""A Unix stream socket: the client is on the machine of the proxy, and has no address."""
_UNIX_SIZE = 216
_ADDRESSES = {
    0x11: (AF_INET, struct.Struct("!4s4sHH")),
    0x21: (AF_INET6, struct.Struct("!16s16sHH")),
}
"""By family and protocol (TCP over IPv4, over IPv6): the family; source and destination, ports."""
_PORT = re.compile(r"0|[1-9][0-9]{0,4}", re.ASCII)
_FAMILIES = {"TCP4": AF_INET, "TCP6": AF_INET6}


class ProxyHeaderError(Exception):
    """The bytes are no header; the text says why, for the log."""


class ProxyHeader(SimpleNamespace):
    """What a header says."""

    size: int
    """Bytes of the header."""
    client: tuple[str, int] | None
    """Host and port of the client, in the notation of the log; None: the proxy names nobody.

    In a health check the proxy itself is the client: LOCAL, for which version 1 has UNKNOWN."""


def parse(data: bytes) -> ProxyHeader | None:
    """Read the header at the beginning of `data`; None where the rest of it is to come.

    Raises `ProxyHeaderError`.
    """
    if _begins(data, _BEGIN_1):
        return _parse_1(data)
    if _begins(data, _BEGIN_2):
        return _parse_2(data)
    raise ProxyHeaderError("no PROXY header")


def _begins(data: bytes, signature: bytes) -> bool:
    """Whether the data has the signature, or could have it when the rest has come."""
    return data[: len(signature)] == signature[: len(data)]


def _parse_1(data: bytes) -> ProxyHeader | None:
    line, end, _ = data[:_LONGEST_LINE].partition(b"\r\n")
    if not end:
        if len(data) >= _LONGEST_LINE:
            raise ProxyHeaderError(f"a PROXY header of more than {_LONGEST_LINE} bytes")
        return None
    size = len(line) + len(end)
    try:
        words = line.decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise ProxyHeaderError("a PROXY header that is not ASCII") from None
    if words[1] == "UNKNOWN":
        # Whatever follows is to be ignored.
        return ProxyHeader(size=size, client=None)
    family = _FAMILIES.get(words[1])
    if family is None or len(words) != 6:
        raise ProxyHeaderError("a PROXY header without family, two addresses and two ports")
    hosts = [_host(family, word) for word in words[2:4]]
    ports = [_port(word) for word in words[4:]]
    return ProxyHeader(size=size, client=(hosts[0], ports[0]))


def _host(family: int, text: str) -> str:
    try:
        return plain_host(inet_ntop(family, inet_pton(family, text)))
    except (OSError, ValueError):
        raise ProxyHeaderError("a PROXY header with a false address") from None


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise ProxyHeaderError("a PROXY header with a false port")
    return int(text)


def _parse_2(data: bytes) -> ProxyHeader | None:
    if len(data) < _HEAD_2.size:
        return None
    _, command, kind, length = _HEAD_2.unpack_from(data)
    size = _HEAD_2.size + length
    if command not in {_LOCAL, _PROXY}:
        raise ProxyHeaderError("a PROXY header of an unknown version or command")
    if size > LONGEST_HEADER:
        raise ProxyHeaderError(f"a PROXY header of more than {LONGEST_HEADER} bytes")
    if len(data) < size:
        return None
    if command == _LOCAL or kind == _UNSPECIFIED:
        # The rest of a local header is to be ignored, whatever it says.
        return ProxyHeader(size=size, client=None)
    if kind == _UNIX and length >= _UNIX_SIZE:
        return ProxyHeader(size=size, client=None)
    family, layout = _ADDRESSES.get(kind, (0, _HEAD_2))
    if not family or length < layout.size:
        raise ProxyHeaderError("a PROXY header without family, two addresses and two ports")
    source, _, port, _ = layout.unpack_from(data, _HEAD_2.size)
    return ProxyHeader(size=size, client=(plain_host(inet_ntop(family, source)), port))
