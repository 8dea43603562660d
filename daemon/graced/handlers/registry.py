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

One that has these methods takes part in a restart, which its client then does not notice; of others
the client is told, and has the grace period:

``save()``
    returns `bytes`, in place of the read that it was about to do or waited in: an exception ends
    ``handle`` there, which must let it pass.  Not for a `socketserver.StreamRequestHandler`, whose
    ``rfile`` reads ahead.
``restore(state)``
    takes them, in the next process, after ``setup`` and before ``handle``.
"""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace

from graced.errors import ConfigError
from graced.handlers.handler_socket import MovedError

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
    movable: bool
    """Whether it can go on in another process."""


_BUILT_IN = {"echo-threaded": "graced.handlers.echo:EchoHandler"}


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
    # Loaded already, by the factory.
    from socketserver import StreamRequestHandler  # noqa: PLC0415

    movable = all(callable(getattr(factory, method, None)) for method in ("save", "restore"))
    if movable and issubclass(factory, StreamRequestHandler):
        raise ConfigError(f"handler {name!r} cannot save() what its rfile has read ahead")
    return Handler(
        factory=_movable(factory) if movable else factory,
        farewell=own or b"",
        greets=bool(getattr(factory, "greets", False)),
        movable=movable,
    )


def _movable(factory: Any) -> Any:
    """The same handler, which begins where it was in another process and stops to go there."""

    class Movable(factory):  # type: ignore[misc]
        def handle(self) -> None:
            if self.request.saved is not None:
                self.restore(self.request.saved)
                self.request.saved = None
            try:
                super().handle()
            except (MovedError, BlockingIOError):
                if not self.request.moving:
                    raise
                self.request.saved = bytes(self.save())

    Movable.__name__, Movable.__qualname__ = factory.__name__, factory.__qualname__
    Movable.__module__ = factory.__module__
    return Movable


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
