"""graced: a threaded TCP server that says goodbye properly.

The program is graced(8).  For use as a library there are `GracefulTCPServer` and
`GracefulUnixStreamServer`, drop-in replacements for their namesakes in `socketserver`.
"""

from __future__ import annotations

# What `typing` has by this name; importing it would be a tenth of the start of the programs.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from graced.tcpserver import GracefulTCPServer, GracefulUnixStreamServer

__all__ = ["GracefulTCPServer", "GracefulUnixStreamServer", "__version__"]

__version__ = "0.2.0"


def __getattr__(name: str) -> object:
    """Load the library for who uses it (PEP 562): the programs must not wait for it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from graced import tcpserver  # noqa: PLC0415

    return getattr(tcpserver, name)
