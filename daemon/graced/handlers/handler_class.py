"""Handler classes and server classes that are refused, because no client would be answered.

`socketserver` takes each of these classes, and accepts clients.
"""

from __future__ import annotations

import socket
from socketserver import DatagramRequestHandler

from graced.handlers.function_kind import kind_of, underlying

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

_STEPS = ("setup", "handle", "finish")


def reason_against(factory: Any) -> str | None:
    """Why `factory` cannot serve clients of a stream server; None where no reason is known."""
    factory = underlying(factory)
    if not callable(factory):
        return "cannot be called"
    if isinstance(factory, type):
        if issubclass(factory, DatagramRequestHandler):
            return "is a DatagramRequestHandler, and this server has streams"
        functions = {f"{step}()": getattr(factory, step, None) for step in _STEPS}
    else:
        functions = {"": factory, "__call__()": vars(type(factory)).get("__call__")}
    for name, function in functions.items():
        if kind := kind_of(function):
            what = f"has {kind} {name}" if name else f"is {kind} function"
            return f"{what}, which nobody would run: handlers are called in threads"
    return None


class CheckedServer:
    """A base of a `socketserver.TCPServer` class that raises `TypeError` in its constructor."""

    socket_type: int

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self:
        if cls.socket_type != socket.SOCK_STREAM:
            raise TypeError(
                f"{cls.__name__}: graced serves streams, not socket type {cls.socket_type}"
            )
        return super().__new__(cls)

    @property
    def RequestHandlerClass(self) -> Any:
        """A callable with the arguments of `socketserver.BaseRequestHandler`.

        Raises `TypeError` when it is set to a callable that could not serve a stream.
        """
        return self.__handler_class

    @RequestHandlerClass.setter
    def RequestHandlerClass(self, value: Any) -> None:
        if reason := reason_against(value):
            raise TypeError(f"handler {getattr(value, '__qualname__', value)!r} {reason}")
        self.__handler_class = value
