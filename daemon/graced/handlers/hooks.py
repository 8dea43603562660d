"""Hooks of the service: class methods of a handler that are called once, with the server.

``startup(server)``
    The process serves from now on: it has forked, and no client has come yet.
    ``server.options`` has the values of the options (`graced.handlers.option`).
``restored(server)``
    All inherited clients have their handlers back, and no handler has gone on yet.
``shutdown(server)``
    All clients have gone, and the process ends.
"""

from __future__ import annotations

from graced.errors import StartError
from graced.log import events
from graced.log.event import summary_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

HOOKS = ("startup", "restored", "shutdown")


def run_hook(factory: Any, name: str, server: Any) -> None:
    """Call a hook, if the handler has it.  An exception is logged."""
    try:
        _call(factory, name, server)
    except BaseException as error:
        # A hook ends neither the process, nor the other handlers or exit functions.
        events.HOOK_FAILED(hook=name, reason=summary_of(error), exc_info=error)


def run_startup(factory: Any, server: Any) -> None:
    """Call the hook ``startup``.  Raises `StartError` if it has failed, which is logged."""
    try:
        _call(factory, "startup", server)
    except BaseException as error:
        events.HOOK_FAILED(hook="startup", reason=summary_of(error), exc_info=error)
        raise StartError(
            f"the hook startup of the handler has failed: {summary_of(error)}"
        ) from None


def _call(factory: Any, name: str, server: Any) -> None:
    if hook := find_hook(factory, name):
        hook(server)


def find_hook(factory: Any, name: str) -> Callable[[Any], Any] | None:
    """The class method or static method with that name; None: the handler has none.

    A method of each handler with such a name is no hook.
    """
    bases = getattr(factory, "__mro__", ())
    found = next((vars(base)[name] for base in bases if name in vars(base)), None)
    if not isinstance(found, classmethod | staticmethod):
        return None
    hook: Callable[[Any], Any] = getattr(factory, name)
    return hook


def as_written(factory: Any) -> Any:
    """The class that somebody has written, of a subclass that graced has made of it."""
    while (base := vars(factory).get("graced_base")) is not None:
        factory = base
    return factory
