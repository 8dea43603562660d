"""Hooks of the service: class methods of a handler that are called once, with the server.

``startup(server)``
    The process serves from now on: it has forked, and no client has come yet.
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
    from typing import Any


def run_hook(factory: Any, name: str, server: Any) -> None:
    """Call a hook, if the handler has it.  An exception is logged."""
    try:
        _call(factory, name, server)
    except (Exception, SystemExit) as error:
        # A hook ends neither the process, nor the other handlers or exit functions.
        events.HOOK_FAILED(hook=name, reason=summary_of(error), exc_info=error)


def run_startup(factory: Any, server: Any) -> None:
    """Call the hook ``startup``.  Raises `StartError` if it has failed, which is logged."""
    try:
        _call(factory, "startup", server)
    except (Exception, SystemExit) as error:
        events.HOOK_FAILED(hook="startup", reason=summary_of(error), exc_info=error)
        raise StartError(
            f"the hook startup of the handler has failed: {summary_of(error)}"
        ) from None


def _call(factory: Any, name: str, server: Any) -> None:
    # A method of each handler with such a name is no hook.
    found = next((vars(base)[name] for base in factory.__mro__ if name in vars(base)), None)
    if isinstance(found, classmethod | staticmethod):
        getattr(factory, name)(server)
