"""Hooks of the service: class methods of a handler that are called once, with the server.

``restored(server)``
    All inherited clients have their handlers back, and no handler has gone on yet.
"""

from __future__ import annotations

from graced.log import events
from graced.log.event import summary_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run_hook(factory: Any, name: str, server: Any) -> None:
    """Call a hook, if the handler has it.  An exception is logged."""
    if any(
        isinstance(vars(base).get(name), classmethod | staticmethod) for base in factory.__mro__
    ):
        try:
            getattr(factory, name)(server)
        except Exception as error:
            events.HOOK_FAILED(hook=name, reason=summary_of(error), exc_info=error)
