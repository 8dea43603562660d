"""Which functions a call does not run: coroutines and generators.

The flags of their code say so; `inspect`, which reads the same flags, takes long to import.
"""

from __future__ import annotations

from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_COROUTINE = 0x80
_ASYNC_GENERATOR = 0x200
_GENERATOR = 0x20
"""Flags of a code object, see `inspect`."""


def underlying(factory: Any) -> Any:
    """The class or function of a `functools.partial`; anything else as it is."""
    while isinstance(factory, partial):
        factory = factory.func
    return factory


def is_coroutine_function(function: Any) -> bool:
    """Whether a call returns a coroutine; also of an object that is called."""
    function = underlying(function)
    return bool((_flags(function) or _flags(type(function).__call__)) & _COROUTINE)


def _flags(function: Any) -> int:
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    flags: int = getattr(code, "co_flags", 0)
    return flags


def kind_of(function: Any) -> str | None:
    """Return "an async" or "a generator" for a function that a call does not run, else None."""
    flags = _flags(underlying(function))
    if flags & (_COROUTINE | _ASYNC_GENERATOR):
        return "an async"
    return "a generator" if flags & _GENERATOR else None
