"""graced: a threaded TCP server that says goodbye properly.

The program is graced(8).  The library has `GracefulTCPServer` and `GracefulUnixStreamServer`,
drop-in replacements for `ThreadingTCPServer` and `ThreadingUnixStreamServer` of `socketserver`;
`StreamProtocol`, the base class of handlers that the program calls as asyncio would; and `Option`,
by which a handler declares its options.
"""

from __future__ import annotations

# `typing.TYPE_CHECKING` by another way: importing `typing` takes 3.5 ms or more, a start 23 ms.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from graced.handlers.option import Option
    from graced.handlers.stream import StreamProtocol
    from graced.tcpserver import GracefulTCPServer, GracefulUnixStreamServer

__all__ = [
    "GracefulTCPServer",
    "GracefulUnixStreamServer",
    "Option",
    "StreamProtocol",
    "__version__",
]

__version__ = "0.2.0"


def __getattr__(name: str) -> object:
    """Import the library at its first use (PEP 562): the programs start without the library."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Without the library, which the program does not need.
    if name == "Option":
        from graced.handlers.option import Option  # noqa: PLC0415

        return Option
    if name == "StreamProtocol":
        from graced.handlers.stream import StreamProtocol  # noqa: PLC0415

        return StreamProtocol
    from graced import tcpserver  # noqa: PLC0415

    return getattr(tcpserver, name)
