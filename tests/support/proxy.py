"""Headers of HAProxy's PROXY protocol, as a proxy sends them."""

from __future__ import annotations

import socket
import struct

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21
TCP4, TCP6, UDP4, UNIX, UNSPEC = 0x11, 0x21, 0x12, 0x31, 0x00


def v1(host: str, port: int, to: str = "", to_port: int = 9999) -> bytes:
    family = "TCP6" if ":" in host else "TCP4"
    to = to or ("::1" if ":" in host else "127.0.0.1")
    return f"PROXY {family} {host} {to} {port} {to_port}\r\n".encode()


def v2(host: str, port: int, values: bytes = b"") -> bytes:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    number = socket.inet_pton(family, host)
    body = number + bytes(len(number)) + struct.pack("!HH", port, 9999) + values
    return head(body, PROXY, TCP6 if ":" in host else TCP4)


def head(body: bytes, command: int, kind: int, length: int | None = None) -> bytes:
    """A header of version 2 with any parts."""
    size = len(body) if length is None else length
    return SIGNATURE + struct.pack("!BBH", command, kind, size) + body
