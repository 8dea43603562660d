"""The registry: a handler by its name.

The built-in ``echo`` is a stream handler: ``echo`` runs on the I/O threads and has no code here,
the hot loop *is* the echo.  Every other handler is a `socketserver.BaseRequestHandler` class, whose
``handle`` blocks and gets a thread for each client.  The class may have two attributes:

``farewell``
    `bytes` or `str` to be sent instead of the configured farewell.  None: no farewell is sent, and
    the handler says goodbye in its own words when ``self.server.draining`` (a `threading.Event`) is
    set, before ``self.server.deadline`` (monotonic seconds).
``greets``
    True where the server speaks first: the handler starts when its client is accepted, not when the
    first byte of the client has come.

Clients of a handler with the following two methods stay connected at a restart.
The clients of other handlers receive the farewell at a restart, and have the grace period:

``save()``
    returns the state of the handler as `bytes`.  ``save`` is called after an exception has ended
    ``handle`` at a read: `BlockingIOError` at a read that is waiting, `FreezeInterrupt`, a
    `BaseException`, at a new read.  ``handle`` must let the exception pass, so beware of ``except
    OSError``.  Not for a `socketserver.StreamRequestHandler`, whose ``rfile`` reads ahead.
``restore(state)``
    takes that state in the next process, after ``setup`` and before ``handle``.
"""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace

from graced.errors import ConfigError
from graced.handlers.handler_socket import FreezeInterrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socketserver import BaseRequestHandler
    from typing import Any

ECHO = "echo"
GROUP = "graced.handlers"
"""The entry-point group for handlers of other packages."""


class Handler(SimpleNamespace):
    """A blocking handler, with the attributes of its class."""

    factory: type[BaseRequestHandler]
    farewell: bytes
    greets: bool
    movable: bool
    """Whether the handler can save its state and go on in another process."""


_BUILT_IN = {"echo-threaded": "graced.handlers.echo:EchoHandler"}


def is_built_in(name: str) -> bool:
    """Whether `name` is a handler of graced."""
    return name == ECHO or name in _BUILT_IN


def find(name: str, farewell: bytes) -> Handler | None:
    """The blocking handler with that name; None for the stream handler.  Raises `ConfigError`.

    `farewell`: the farewell of a handler that declares none.
    """
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
    # The module is imported already, for the base class of the factory.
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
    """A subclass of the handler that first restores its state, and saves its state when frozen."""

    class Movable(factory):  # type: ignore[misc]
        def handle(self) -> None:
            if self.request.saved is not None:
                self.restore(self.request.saved)
                self.request.saved = None
            try:
                super().handle()
            except (FreezeInterrupt, BlockingIOError):
                if not self.request.freezing:
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
        # The module may raise anything at its import, and the start must fail in one line.
        raise ConfigError(f"handler {name!r} cannot be imported: {_brief(error)}") from error
    return found


def _entry_point(name: str) -> Any:
    # Imported for an entry point only: takes 21 ms, as much as the rest of the start.
    from importlib.metadata import entry_points  # noqa: PLC0415

    found = entry_points(group=GROUP)
    if name not in found.names:
        known = ", ".join([ECHO, *_BUILT_IN, *sorted(found.names)])
        raise ConfigError(f"unknown handler {name!r}, known are {known} and package.module:Class")
    return _import(found[name].value)


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no reason given"
    return f"{type(error).__name__}: {text}"[:200]
