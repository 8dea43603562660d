"""The registry: a handler by its name.

The built-in ``echo`` runs on the I/O threads and has no code here, the hot loop *is* the echo.  A
subclass of `graced.StreamProtocol` is called by the I/O threads (`graced.loop.streams`).  Every
other handler is a `socketserver.BaseRequestHandler` class, whose ``handle`` blocks and gets a
thread for each client.  The class may have two attributes:

``farewell``
    `bytes` or `str` to be sent instead of the configured farewell; or a method that returns them
    for its client, or None where it has said goodbye itself.  None: no farewell is sent.  Where
    nothing is sent, the handler hears end of file and says goodbye in its own words;
    ``self.server.draining`` (a `threading.Event`) is set then, and ``self.server.deadline``
    (monotonic seconds) is known.
``server``
    an object whose attributes ``self.server`` has, for a handler that was written for a server of
    its own: ``logRequests`` of xmlrpc, ``base_environ`` of wsgiref.
``greets``
    True where the server speaks first: the handler starts when its client is accepted, not when the
    first byte of the client has come.  A stream handler always starts at the accept.

Clients of a handler with the following two methods stay connected at a restart.
The clients of other handlers receive the farewell at a restart, and have the grace period:

``save()``
    returns the state of the handler as `bytes`.  ``save`` is called after an exception has ended
    ``handle`` at a read: `BlockingIOError` at a read that is waiting, `FreezeInterrupt`, a
    `BaseException`, at a new read.  ``handle`` must let the exception pass, so beware of ``except
    OSError``.  What the ``rfile`` of a `socketserver.StreamRequestHandler` has read ahead is saved
    too.
``restore(state)``
    takes that state in the next process, after ``setup`` and before ``handle``; or after
    ``connection_made``.
"""

from __future__ import annotations

import threading
from importlib import import_module
from types import SimpleNamespace

from graced.errors import ConfigError
from graced.handlers.function_kind import kind_of
from graced.handlers.handler_socket import HandlerSocket
from graced.handlers.movable import can_move, movable, named_like
from graced.handlers.stream import StreamProtocol
from graced.log import events
from graced.log.event import plural, summary_of
from graced.sockets.address import format_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

ECHO = "echo"
CALLBACKS = (
    "connection_made",
    "data_received",
    "get_buffer",
    "buffer_updated",
    "eof_received",
    "connection_lost",
    "pause_writing",
    "resume_writing",
    "farewell",
    "save",
    "restore",
)
"""Methods of a stream handler that graced calls."""
GROUP = "graced.handlers"
"""The entry-point group for handlers of other packages."""


class Handler(SimpleNamespace):
    """A handler, with the attributes of its class."""

    name: str
    """Tells its saved state from that of another handler: module and class, as Python has them."""
    factory: Any
    """The class, or a subclass."""
    streams: bool
    """Whether it is a stream handler; otherwise it blocks."""
    holds_back: bool
    """Of a stream handler: whether it leaves `pause_writing` to graced."""
    words: Callable[[Any], bytes | None] | None
    """Of a stream handler: its method `farewell`, if it has one."""
    farewell: bytes | None
    """None: no farewell is declared, or a method of the handler returns it."""
    greets: bool
    movable: bool
    """Whether the handler can save its state and go on in another process."""


_BUILT_IN = {"echo-threaded": "graced.handlers.echo:EchoHandler"}


def is_built_in(name: str) -> bool:
    """Whether `name` is a handler of graced."""
    return name == ECHO or name in _BUILT_IN


def name_of(handler: Handler | None) -> str:
    """The name of a handler; None: of the built-in echo."""
    return handler.name if handler else ECHO


def blocks(handler: Handler | None) -> bool:
    """Whether the handler needs a thread for each client; None: the built-in echo does not."""
    return handler is not None and not handler.streams


def find(name: str, farewell: bytes, *, written: bool = True) -> Handler | None:
    """The handler with that name; None for the built-in echo.  Raises `ConfigError`.

    `farewell`: of a built-in handler, and, if it is `written` in a file, of a handler that declares
    none: nobody knows better than its user which bytes its protocol has.
    """
    if name == ECHO:
        return None
    built_in = is_built_in(name)
    configured = farewell if built_in or written else None
    name = _BUILT_IN.get(name, name)
    running = set(threading.enumerate())
    factory = _import(name) if ":" in name else _entry_point(name)
    if started := set(threading.enumerate()) - running:
        raise ConfigError(
            f"handler {name!r} starts {plural(len(started), 'thread')} at its import,"
            " dead in the daemon, which forks: start it with the first client"
        )
    streams = isinstance(factory, type) and issubclass(factory, StreamProtocol)
    if streams:
        _refuse_coroutines(name, factory)
    else:
        _refuse_unfit(name, factory)
    own = getattr(factory, "farewell", configured)
    speaks = callable(own)
    try:
        own = None if speaks else _as_bytes(own)
    except TypeError as error:
        raise ConfigError(f"handler {name!r}: {error} or a method") from None
    moves = can_move(factory)
    return Handler(
        name=ECHO if built_in else f"{factory.__module__}:{factory.__qualname__}",
        factory=factory if streams else _blocking(factory, moves=moves, speaks=speaks),
        streams=streams,
        farewell=own if own or built_in else None,
        greets=bool(getattr(factory, "greets", False)),
        movable=moves,
        holds_back=streams and factory.pause_writing is StreamProtocol.pause_writing,
        words=_words if speaks else None,
    )


def _refuse_coroutines(name: str, factory: Any) -> None:
    for callback in CALLBACKS:
        if kind := kind_of(getattr(factory, callback, None)):
            raise ConfigError(
                f"handler {name!r} has {kind} {callback}(), which nobody would run:"
                " a StreamProtocol has ordinary methods"
            )


def _refuse_unfit(name: str, factory: Any) -> None:
    if not (isinstance(factory, type) and callable(getattr(factory, "handle", None))):
        raise ConfigError(
            f"handler {name!r} is neither a graced.StreamProtocol"
            " nor a socketserver.BaseRequestHandler class"
        )
    # Imports socketserver, as the module of the factory did.
    from graced.handlers.handler_class import reason_against  # noqa: PLC0415

    if reason := reason_against(factory):
        raise ConfigError(f"handler {name!r} {reason}")


def _words(protocol: Any) -> bytes | None:
    # By `set_protocol` the client may have a handler of another class.
    words = getattr(protocol, "farewell", None)
    return _as_bytes(words() if callable(words) else words)


def _blocking(factory: Any, *, moves: bool, speaks: bool) -> Any:
    made = movable(factory) if moves else factory
    return _speaking(made) if speaks else made


def _speaking(factory: Any) -> Any:
    """A subclass of the handler whose method `farewell` is asked when its client is at rest."""

    class Speaking(factory):  # type: ignore[misc]
        def handle(self) -> None:
            if isinstance(self.request, HandlerSocket):
                self.request.words = self._farewell_or_none
            super().handle()

        def _farewell_or_none(self) -> bytes | None:
            try:
                return _as_bytes(self.farewell())
            except Exception as error:
                # No fault of other clients, nor of a read of this handler.
                client = format_address(self.client_address)
                events.HANDLER_FAILED(client=client, reason=summary_of(error), exc_info=error)
                return None

    return named_like(factory, Speaking)


def _as_bytes(farewell: Any) -> bytes | None:
    """The bytes of a farewell.  Raises `TypeError`."""
    if isinstance(farewell, str):
        return farewell.encode()
    if not isinstance(farewell, bytes | None):
        raise TypeError(f"farewell must be bytes, str or None, not {farewell!r}")
    return farewell


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
