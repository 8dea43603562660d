"""Addresses to listen on, and how every address is written."""

from __future__ import annotations

from types import SimpleNamespace


class Address(SimpleNamespace):
    """``HOST:PORT``, ``[IPV6]:PORT``, ``*:PORT`` or ``unix:/PATH``."""

    host: str
    """A name or number, ``*`` for every address of both families, empty for a Unix socket."""
    port: int
    path: str

    def __init__(self, host: str, port: int, path: str = "") -> None:
        super().__init__(host=host, port=port, path=path)

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address.  Raises `ValueError` with the forms that are allowed."""
        if not text.isprintable():
            raise ValueError("must not contain control characters")
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            if not path.startswith("/"):
                raise ValueError("must name an absolute path after unix:")
            if len(path.encode("utf-8", "surrogateescape")) > _MAX_PATH:
                raise ValueError(f"must be a path of at most {_MAX_PATH} bytes")
            return cls("", 0, path)
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
        return cls(host, int(port))

    def __str__(self) -> str:
        return format_address(self.path or (self.host, self.port))


def format_address(address: object) -> str:
    """The text for a socket address of any family, as in the log; any thread may call.

    `address`: a tuple that begins with host and port, or the path of a Unix socket.
    """
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(address, bytes):
        address = address.decode("utf-8", "backslashreplace")
    return f"unix:{address}"


def plain_host(host: str) -> str:
    """Return the number of a client's host in the one notation of log, fields and limits.

    A socket that serves both families names an IPv4 client ``::ffff:192.0.2.7`` (RFC 4291,
    2.5.5.2); the same client is 192.0.2.7 everywhere else.  Any thread may call.
    """
    return host.removeprefix(_MAPPED) if "." in host else host


_MAPPED = "::ffff:"
_MAX_PORT = 65535
_MAX_PATH = 107
"""sizeof(sun_path) less the terminator, unix(7)."""
