"""The event loop that an asyncio handler runs on: asyncio's, or uvloop's where that is asked for.

uvloop closes descriptors itself, so each client needs two; and of a Unix socket nobody could say
which client is at rest, as neither uvloop nor the kernel tells.
"""

from __future__ import annotations

from importlib.util import find_spec
from socket import AF_UNIX

from graced.errors import ConfigError
from graced.log import events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from graced.app.settings import Settings
    from graced.handlers.registry import Handler
    from graced.loop.client import Client
    from graced.sockets.listener import Listener

UVLOOP = "uvloop"


def wants_uvloop(settings: Settings, handler: Handler | None) -> bool:
    """Whether the handler shall run on uvloop's loop."""
    return bool(handler and handler.asynchronous and settings.event_loop == UVLOOP)


def check(settings: Settings, handler: Handler) -> None:
    """Raise `ConfigError` where the loop that is asked for cannot serve."""
    if not wants_uvloop(settings, handler):
        return
    if find_spec(UVLOOP) is None:
        raise ConfigError(
            'server.event_loop = "uvloop", which is not installed (Debian: python3-uvloop)'
        )
    for address in settings.listen:
        if address.path:
            raise ConfigError(
                'server.event_loop = "uvloop" serves no Unix sockets,'
                f" but server.listen has {address}"
            )


def copies(settings: Settings, handler: Handler | None) -> int:
    """The descriptors besides one for each client."""
    return settings.max_clients if wants_uvloop(settings, handler) else 0


def is_fast(settings: Settings, handler: Handler, listeners: Sequence[Listener]) -> bool:
    """Whether the loop is uvloop's; not where the service manager has passed a Unix socket."""
    if not wants_uvloop(settings, handler):
        return False
    if _any_unix(listeners):
        events.LIMITS(reason="uvloop serves no Unix socket: the loop is asyncio's")
        return False
    return True


def leave_out(
    settings: Settings,
    handler: Handler | None,
    listeners: Sequence[Listener],
    clients: Iterable[Client],
) -> str:
    """Let inherited clients be turned away that uvloop does not serve, on Unix sockets.

    They came when the loop was another.  Return the reason for the log; empty: there are none.
    """
    if not wants_uvloop(settings, handler) or _any_unix(listeners):
        return ""
    others = [client for client in clients if client.counted and client.sock.family == AF_UNIX]
    for client in others:
        client.counted = False
    return "uvloop serves no Unix sockets" if others else ""


def _any_unix(listeners: Sequence[Listener]) -> bool:
    return any(listener.sock.family == AF_UNIX for listener in listeners)
