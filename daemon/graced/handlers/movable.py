"""Handlers that go on in another process: the steps before and after `save` and `restore`.

A handler that goes on is set up again, because a new object needs its files and attributes.  But
its client must not be greeted again, and a handler that writes to other clients, as in a chat, must
not announce the client again.  So all requests are mute until the state of all handlers is
restored, and only then does any handler go on.
`finish` is called where the handler ends, and not at the handover.
"""

from __future__ import annotations

import struct

from graced.handlers.handler_socket import FreezeInterrupt
from graced.log import events
from graced.log.event import summary_of
from graced.sockets.address import format_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FILES = struct.Struct("=II")
"""Bytes that `rfile` has read ahead, bytes of `wfile` that are not flushed.

They stand before the state of a `StreamRequestHandler`."""


def can_move(factory: Any) -> bool:
    """Whether a handler has the methods to save and to restore its state."""
    return all(callable(getattr(factory, method, None)) for method in ("save", "restore"))


def movable(factory: Any) -> Any:
    """A subclass of the handler that first restores its state, and saves its state when frozen."""
    # The module is imported already, for the base class of the factory.
    from socketserver import StreamRequestHandler  # noqa: PLC0415

    has_files = issubclass(factory, StreamRequestHandler)

    class Movable(*bases_for(factory), metaclass=shares_attributes(factory)):  # type: ignore[metaclass,misc]
        def setup(self) -> None:
            self.request.only_writes = bool(getattr(self, "only_writes", False))
            self.request.reads_carefully = has_files
            super().setup()
            if has_files and self.request.saved is not None:
                # A greeting in the buffer is not sent either.
                self.wfile.flush()

        def handle(self) -> None:
            state, self.request.saved = self.request.saved, None
            if state is not None:
                unflushed = b""
                if has_files:
                    ahead, unflushed, state = _unpack(state)
                    self.rfile.ahead += ahead
                self.restore(state)
                self.request.await_the_others()
                if unflushed:
                    self.wfile.write(unflushed)
            try:
                super().handle()
            except (FreezeInterrupt, BlockingIOError):
                if not self.request.freezing:
                    raise
            else:
                return
            # Not above: what is written while an interruption passes is not sent.
            state = self._state_or_none()
            if state is not None and has_files:
                unflushed = self.request.capture(self.wfile.flush)
                state = _pack(bytes(self.rfile.ahead), unflushed, state)
            self.request.saved = state

        def _state_or_none(self) -> bytes | None:
            """What `save` returns; None where that has failed: the client is told then."""
            try:
                return as_state(self.save())
            except BaseException as error:
                client = format_address(self.client_address)
                events.HANDLER_FAILED(client=client, reason=summary_of(error), exc_info=error)
                return None

        def finish(self) -> None:
            if self.request.saved is None:
                super().finish()

    return named_like(factory, Movable)


def as_state(saved: Any) -> bytes:
    """What `save` has returned.  Raises `TypeError`: of a number `bytes` would make zeros."""
    if not isinstance(saved, bytes | bytearray | memoryview):
        raise TypeError(f"save() must return bytes, not {saved!r}")
    return bytes(saved)


def _pack(ahead: bytes, unflushed: bytes, state: bytes) -> bytes:
    return _FILES.pack(len(ahead), len(unflushed)) + ahead + unflushed + state


def _unpack(packed: bytes) -> tuple[bytes, bytes, bytes]:
    ahead, unflushed = _FILES.unpack_from(packed)
    rest = packed[_FILES.size :]
    return rest[:ahead], rest[ahead : ahead + unflushed], rest[ahead + unflushed :]


class _Unannounced:
    """A base in front of a handler's, whose `__init_subclass__` is not called.

    The handler may have one that keeps a list of its subclasses, or wants arguments.
    """

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        """Do nothing."""


def bases_for(factory: Any) -> tuple[Any, ...]:
    """The bases of a subclass of the handler that somebody has written, or that graced has made."""
    return (factory,) if issubclass(factory, _Unannounced) else (_Unannounced, factory)


def shares_attributes(factory: Any) -> Any:
    """A metaclass for a subclass of the handler: attributes that are set go to the handler's class.

    So a class that counts its clients has one count, by whichever of the two names.
    """

    class Shares(type(factory)):  # type: ignore[misc]
        def __setattr__(cls, name: str, value: Any) -> None:
            if "graced_base" in vars(cls):
                setattr(factory, name, value)
            else:
                # Of the subclass itself, while it is made: `abc` sets some, and `named_like`.
                super().__setattr__(name, value)

        def __delattr__(cls, name: str) -> None:
            delattr(factory, name)

    return Shares


def named_like(factory: Any, subclass: Any) -> Any:
    """Give a subclass of `shares_attributes` the names of its base, for log and traceback."""
    subclass.__name__, subclass.__qualname__ = factory.__name__, factory.__qualname__
    subclass.__module__ = factory.__module__
    subclass.graced_base = factory
    return subclass
