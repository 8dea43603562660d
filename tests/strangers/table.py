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
    """Whether the program itself waits for its calls after graced has returned."""
    files: bool = False
    """Whether the big answer comes from a file."""


HTTP = "quick slow paused big upload"
STRANGERS = {
    "http": Stranger(clients.http, HTTP, files=True),
    "http_keep_alive": Stranger(clients.http, HTTP, keeps=True, files=True),
    "wsgi": Stranger(clients.wsgi, HTTP),
    "flask": Stranger(clients.wsgi, HTTP, "flask"),
    "xmlrpc": Stranger(clients.xmlrpc_, "quick slow big upload"),
    "jsonrpc": Stranger(clients.jsonrpc, "quick slow big upload", "jsonrpclib"),
    "jsonrpc_pooled": Stranger(clients.jsonrpc, "quick slow big upload", "jsonrpclib", joins=True),
    "names": Stranger(clients.names, "quick slow big", "dnslib"),
    "registers": Stranger(clients.registers, "quick slow", "umodbus", keeps=True),
    "images": Stranger(clients.images, "quick slow upload", "pynetdicom", keeps=True, lead=1),
}
