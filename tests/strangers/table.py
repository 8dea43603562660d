"""The table of strangers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from strangers import clients


class Stranger(NamedTuple):
    call: Callable[[str, int, str], None]
    """Its own client, see `strangers.clients`."""
    calls: str
    """The calls that the service has, see `strangers.apps`."""
    package: str = ""
    """The module from PyPI; empty: in the standard library."""
    keeps: bool = False
    """Whether a connection stays for further calls."""
    lead: int = 0
    """Turns before the first call."""
    joins: bool = False
    """Whether the program itself waits for its calls after graced has returned, or leaves processes
    behind."""
    files: bool = False
    """Whether the big answer comes from a file."""


HTTP = "quick slow paused big upload"
STRANGERS = {
    "http": Stranger(clients.http, HTTP, files=True),
    "http_keep_alive": Stranger(clients.http, HTTP, keeps=True, files=True),
    "http_buffered": Stranger(clients.http, "quick slow big upload", keeps=True, files=True),
    "cgi": Stranger(clients.cgi, HTTP, joins=True),
    "wsgi": Stranger(clients.wsgi, HTTP),
    "flask": Stranger(clients.wsgi, HTTP, "flask"),
    "xmlrpc": Stranger(clients.xmlrpc_, "quick slow big upload"),
    "documented": Stranger(clients.documented, "quick slow big upload"),
    "connections": Stranger(clients.connections, "quick slow big upload", keeps=True),
    "jsonrpc": Stranger(clients.jsonrpc, "quick slow big upload", "jsonrpclib"),
    "jsonrpc_pooled": Stranger(clients.jsonrpc, "quick slow big upload", "jsonrpclib", joins=True),
    "names": Stranger(clients.names, "quick slow big", "dnslib"),
    "registers": Stranger(clients.registers, "quick slow", "umodbus", keeps=True),
    "images": Stranger(clients.images, "quick slow upload", "pynetdicom", keeps=True, lead=1),
}
