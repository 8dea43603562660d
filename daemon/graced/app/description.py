"""What ``graced --describe`` prints: what a handler is, its documentation, and its options."""

from __future__ import annotations

import inspect
from textwrap import wrap

from graced.app import handler_path
from graced.app.configuration import HANDLER, key_in_toml, literal
from graced.handlers import configuring
from graced.handlers.hooks import as_written, find_hook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from graced.app.settings import Settings
    from graced.handlers.option import Option
    from graced.handlers.registry import Handler

_ECHO = """\
echo, built in: runs on the I/O thread
clients stay connected at a restart

Returns what it receives, the echo service of RFC 862.

It has no options."""
_WIDTH = 96


def of(settings: Settings, environ: Mapping[str, str]) -> str:
    """The description of the configured handler, without a newline at the end.

    Options in the configuration are not looked at.  Raises `ConfigError`.
    """
    handler = handler_path.find(settings, environ)
    if handler is None:
        return _ECHO
    parts = [_head(settings.handler, handler)]
    # Its own: not the one of a base, which says nothing about this handler.
    if about := inspect.cleandoc(as_written(handler.factory).__doc__ or ""):
        parts.append(about)
    parts.append(_options(settings.handler, handler))
    return "\n\n".join(parts)


def _head(name: str, handler: Handler) -> str:
    factory = handler.factory
    where = f"{factory.__module__}:{factory.__qualname__}"
    if handler.streams:
        kind = "a stream handler: runs on the I/O thread"
    elif handler.asynchronous:
        kind = "an asyncio handler: runs on a loop in a thread of its own"
    else:
        kind = "a blocking handler: has a thread for each client, from "
        # Beside that, an experiment may show it: `graced.handlers.greeting`.
        kind += "the accept on" if handler.greets else "its first byte on"
    stay = "stay connected" if handler.movable else "are told"
    if handler.words:
        farewell = "the handler decides for each client"
    elif handler.farewell:
        farewell = repr(handler.farewell)
    else:
        farewell = "end of file"
    first = f"{where}, {kind}" if name == where else f"{name} is {where}, {kind}"
    return f"{first}\nclients {stay} at a restart; farewell: {farewell}"


def _options(name: str, handler: Handler) -> str:
    options = configuring.declared(handler.factory, name)
    if options:
        return f"[{HANDLER}]\n" + "\n".join(map(_option, options, options.values()))
    hook = find_hook(handler.factory, configuring.HOOK)
    if not hook:
        return "It has no options."
    about = inspect.getdoc(hook)
    return f"It checks the keys of [{HANDLER}] itself." + (f"\n\n{about}" if about else "")


def _option(key: str, option: Option) -> str:
    """As in the file that is shipped: a comment, and the key with its default."""
    required = " Required." if option.required else ""
    lines = wrap(f"{option.about}: {option.allowed}.{required}", _WIDTH)
    default = "" if option.required else f" {literal(option.default)}"
    return "\n".join([*(f"# {line}" for line in lines), f"#{key_in_toml(key)} ={default}"])
