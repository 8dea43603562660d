"""What a client talks to, and how one is found by name.

The built-in ``echo`` is a stream handler: it runs on the I/O threads and has no code here, the
hot loop *is* the echo.  Every other handler is a `socketserver.BaseRequestHandler` class, whose
``handle`` blocks and gets a thread for each client.  It may have these class attributes:

``farewell``
    `bytes` or `str` to be sent instead of the configured one; None: nothing is sent, the handler
    says goodbye itself when ``self.server.draining`` (a `threading.Event`) is set, until
    ``self.server.deadline`` (monotonic seconds).
``greets``
    True where the server speaks first; the handler then runs from the accept on and not from the
    client's first byte on.
"""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace

from graced.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socketserver import BaseRequestHandler
    from typing import Any

ECHO = "echo"
GROUP = "graced.handlers"
"""The entry-point group of handlers that other packages provide."""


class Handler(SimpleNamespace):
    """A blocking handler and what it says of itself."""

    factory: type[BaseRequestHandler]
    farewell: bytes
    greets: bool


_BUILT_IN = {"echo-threaded": "graced.threaded_echo:EchoHandler"}


def is_built_in(name: str) -> bool:
    """Whether the handler of that name is graced's own."""
    return name == ECHO or name in _BUILT_IN


def find(name: str, farewell: bytes) -> Handler | None:
    """The handler of that name, None for the stream handler.  Raises `ConfigError`."""
    if name == ECHO:
        return None
    name = _BUILT_IN.get(name, name)
    factory = _import(name) if ":" in name else _entry_point(name)
    if not (isinstance(factory, type) and callable(getattr(factory, "handle", None))):
        raise ConfigError(f"handler {name!r} is not a socketserver.BaseRequestHandler class")
    own = getattr(factory, "farewell", farewell)
    if isinstance(own, str):
        own = own.encode()
    if not isinstance(own, bytes | None):
        raise ConfigError(f"handler {name!r}: farewell must be bytes, str or None, not {own!r}")
    return Handler(
        factory=factory, farewell=own or b"", greets=bool(getattr(factory, "greets", False))
    )


def _import(name: str) -> Any:
    module_name, _, attributes = name.partition(":")
    try:
        found: Any = import_module(module_name)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
    except (Exception, SystemExit) as error:
        # Somebody else's code: whatever it raises at import is a reason not to start.
        raise ConfigError(f"handler {name!r} cannot be imported: {_brief(error)}") from error
    return found


def _entry_point(name: str) -> Any:
    # Costs as much as the rest of the start, and only who uses it needs it.
    from importlib.metadata import entry_points  # noqa: PLC0415

    found = entry_points(group=GROUP)
    if name not in found.names:
        known = ", ".join([ECHO, *_BUILT_IN, *sorted(found.names)])
        raise ConfigError(f"unknown handler {name!r}, known are {known} and package.module:Class")
    return _import(found[name].value)


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no reason given"
    return f"{type(error).__name__}: {text}"[:200]
