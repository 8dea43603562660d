"""Which handlers run on an asyncio loop.  Nothing is called, and asyncio is not imported."""

from __future__ import annotations

import sys

from graced.handlers.function_kind import is_coroutine_function, underlying

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROTOCOL = "protocol"
"""An `asyncio.Protocol` or `BufferedProtocol` class, or a `functools.partial` of one."""
COROUTINE = "coroutine"
"""A coroutine function of a reader and a writer, as for `asyncio.start_server`."""


def kind(factory: Any) -> str:
    """PROTOCOL or COROUTINE; empty: the handler is of another kind."""
    made = underlying(factory)
    if not isinstance(made, type):
        return COROUTINE if is_coroutine_function(made) else ""
    # A module with such a class has imported asyncio.
    protocols = sys.modules.get("asyncio.protocols")
    if protocols is None or not issubclass(made, protocols.BaseProtocol):
        return ""
    # Not one for datagrams only, or for the pipes of a child.
    return PROTOCOL if hasattr(made, "data_received") or hasattr(made, "get_buffer") else ""


def declaring(factory: Any) -> Any:
    """The class or function whose attributes say how graced treats the handler."""
    made = underlying(factory)
    if isinstance(made, type) or hasattr(made, "__code__") or hasattr(made, "__func__"):
        return made
    # An object that is called.
    return type(made)


def reason_against(factory: Any) -> str:
    """Why the handler cannot be called as asyncio would call it; empty: it can."""
    # Not before: a start without such a handler would pay for the module.
    from inspect import signature  # noqa: PLC0415

    arguments = () if kind(factory) == PROTOCOL else ("reader", "writer")
    try:
        taken = signature(factory)
    except ValueError:
        # Compiled code does not always say what it takes.
        return ""
    try:
        taken.bind(*arguments)
    except TypeError as error:
        return f"cannot be called as asyncio calls it, ({', '.join(arguments)}): {error}"
    return ""
