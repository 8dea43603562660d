"""The finder: the handler behind a name, imported, looked at, and made ready to be run.

The attributes of a handler are in `graced.handlers.registry`.
"""

from __future__ import annotations

from importlib import import_module

from graced.errors import ConfigError
from graced.handlers import asynchronous
from graced.handlers.function_kind import kind_of
from graced.handlers.goodbye import as_bytes
from graced.handlers.handler_socket import HandlerSocket
from graced.handlers.hooks import HOOKS, find_hook
from graced.handlers.movable import bases_for, can_move, movable, named_like, shares_attributes
from graced.handlers.registry import BUILT_IN, ECHO, Handler, is_built_in
from graced.handlers.stream import StreamProtocol
from graced.handlers.thread_check import refuse_threads
from graced.log import events
from graced.log.event import summary_of
from graced.sockets.address import format_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

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


def find(name: str, farewell: bytes, *, written: bool = True) -> Handler:
    """The handler with that name, which is not ``echo``.  Raises `ConfigError`.

    `farewell`: of a built-in handler, and, if it is `written` in a file, of a handler that declares
    none: nobody knows better than its user which bytes its protocol has.
    """
    built_in = is_built_in(name)
    configured = farewell if built_in or written else None
    name = BUILT_IN.get(name, name)
    with refuse_threads(name, "at its import"):
        factory = _import(name) if ":" in name else _entry_point(name)
    streams = isinstance(factory, type) and issubclass(factory, StreamProtocol)
    kind = "" if streams else asynchronous.kind(factory)
    made, factory = factory, asynchronous.declaring(factory) if kind else factory
    if streams:
        _refuse_coroutines(name, factory, CALLBACKS, "a StreamProtocol has ordinary methods")
    elif kind:
        _refuse_uncallable(name, made, factory)
    else:
        _refuse_unfit(name, factory)
    for hook in HOOKS:
        _refuse_coroutine(name, hook, find_hook(factory, hook), "hooks are ordinary methods")
    own = getattr(factory, "farewell", configured)
    speaks = callable(own)
    try:
        own = None if speaks else as_bytes(own)
    except TypeError as error:
        raise ConfigError(f"handler {name!r}: {error} or a method") from None
    moves = can_move(factory) and kind != asynchronous.COROUTINE
    runs_as_it_is = streams or kind
    handler = Handler(
        name=ECHO if built_in else f"{factory.__module__}:{factory.__qualname__}",
        factory=factory if runs_as_it_is else _blocking(name, factory, moves=moves, speaks=speaks),
        streams=streams,
        farewell=own if own or built_in else None,
        greets=None if (greets := getattr(factory, "greets", None)) is None else bool(greets),
        movable=moves,
        holds_back=streams and factory.pause_writing is StreamProtocol.pause_writing,
        words=_words if speaks else None,
    )
    if kind:
        handler.asynchronous, handler.make = kind, made
    return handler


def _refuse_coroutines(name: str, factory: Any, methods: Iterable[str], why: str) -> None:
    for method in methods:
        _refuse_coroutine(name, method, getattr(factory, method, None), why)


def _refuse_coroutine(name: str, method: str, function: Any, why: str) -> None:
    if kind := kind_of(function):
        raise ConfigError(f"handler {name!r} has {kind} {method}(), which nobody would run: {why}")


def _refuse_uncallable(name: str, made: Any, factory: Any) -> None:
    if reason := asynchronous.reason_against(made):
        raise ConfigError(f"handler {name!r} {reason}")
    methods = CALLBACKS if can_move(factory) else [*set(CALLBACKS) - {"save", "restore"}]
    _refuse_coroutines(name, factory, methods, "asyncio calls ordinary methods")
    if asynchronous.kind(made) == asynchronous.COROUTINE and callable(
        getattr(factory, "farewell", None)
    ):
        raise ConfigError(f"handler {name!r}: the farewell of a coroutine function must be bytes")


def _refuse_unfit(name: str, factory: Any) -> None:
    if not (isinstance(factory, type) and callable(getattr(factory, "handle", None))):
        raise ConfigError(
            f"handler {name!r} is neither a graced.StreamProtocol"
            " nor a socketserver.BaseRequestHandler class,"
            " nor an asyncio.Protocol class, a functools.partial of one, or a coroutine function"
        )
    # Imports socketserver, as the module of the factory did.
    from graced.handlers.handler_class import reason_against  # noqa: PLC0415

    if reason := reason_against(factory):
        raise ConfigError(f"handler {name!r} {reason}")
    methods = ["farewell", *(("save", "restore") if can_move(factory) else ())]
    _refuse_coroutines(name, factory, methods, "handlers are called in threads")


def _words(protocol: Any) -> bytes | None:
    # By `set_protocol` the client may have a handler of another class.
    words = getattr(protocol, "farewell", None)
    return as_bytes(words() if callable(words) else words)


def _blocking(name: str, factory: Any, *, moves: bool, speaks: bool) -> Any:
    try:
        made = movable(factory) if moves else factory
        return _speaking(made) if speaks else made
    except Exception as error:
        # The metaclass of the handler may forbid it.
        raise ConfigError(
            f"handler {name!r} has {'save()' if moves else 'farewell()'}, for which graced makes"
            f" a subclass, and that fails: {_brief(error)}"
        ) from error


def _speaking(factory: Any) -> Any:
    """A subclass of the handler whose method `farewell` is asked when its client is at rest."""

    class Speaking(*bases_for(factory), metaclass=shares_attributes(factory)):  # type: ignore[metaclass,misc]
        def handle(self) -> None:
            if isinstance(self.request, HandlerSocket):
                self.request.words = self._farewell_or_none
            super().handle()

        def _farewell_or_none(self) -> bytes | None:
            try:
                return as_bytes(self.farewell())
            except BaseException as error:
                # No fault of other clients, nor of a read of this handler.
                client = format_address(self.client_address)
                events.HANDLER_FAILED(client=client, reason=summary_of(error), exc_info=error)
                return None

    return named_like(factory, Speaking)


def _import(name: str) -> Any:
    module_name, _, attributes = name.partition(":")
    try:
        found: Any = import_module(module_name)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
    except BaseException as error:
        # The module may raise anything at its import, and the start must fail in one line.
        raise ConfigError(f"handler {name!r} cannot be imported: {_brief(error)}") from error
    return found


def _entry_point(name: str) -> Any:
    # Imported for an entry point only: takes 21 ms, as much as the rest of the start.
    from importlib.metadata import entry_points  # noqa: PLC0415

    found = entry_points(group=GROUP)
    if name not in found.names:
        known = ", ".join([ECHO, *BUILT_IN, *sorted(found.names)])
        raise ConfigError(f"unknown handler {name!r}, known are {known} and package.module:Class")
    return _import(found[name].value)


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no reason given"
    return f"{type(error).__name__}: {text}"[:200]
