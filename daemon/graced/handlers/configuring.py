"""The options of a handler, checked and given to it: at a start before the fork, and in a check."""

from __future__ import annotations

from types import MappingProxyType

from graced.errors import ConfigError, shown
from graced.handlers.function_kind import kind_of
from graced.handlers.hooks import find_hook
from graced.handlers.option import Option
from graced.handlers.thread_check import refuse_threads
from graced.log.event import summary_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from graced.handlers.registry import Handler

    Written = Mapping[str, tuple[Any, str]]
    """The section ``[handler]``: names, each with the value in TOML and the file of it."""

HOOK = "configure"
"""The class method that gets the values of all options."""


def configure(handler: Handler, name: str, written: Written) -> None:
    """Check the options, and give them to the handler.  Raises `ConfigError`.

    `name`: of the handler, in the configuration.
    """
    options = declared(handler.factory, name)
    hook = find_hook(handler.factory, HOOK)
    if not options and not hook:
        refuse_all(name, written)
    values = _checked(name, options, written) if options else _as_written(written)
    handler.options = MappingProxyType(values)
    if hook:
        if kind := kind_of(hook):
            raise ConfigError(f"handler {name!r} has {kind} {HOOK}(), which nobody would run")
        with refuse_threads(name, f"in {HOOK}()"):
            _call(hook, name, written, dict(values))


def declared(factory: Any, name: str) -> dict[str, Option]:
    """The options that a handler declares.  Raises `ConfigError`.

    Another attribute `options`, of a handler that does not know graced, declares none.
    """
    found = getattr(factory, "options", None)
    if not isinstance(found, dict) or not any(isinstance(o, Option) for o in found.values()):
        return {}
    for key, option in found.items():
        if not isinstance(option, Option) or not isinstance(key, str):
            raise ConfigError(f"handler {name!r}: the option {key!r} is no graced.Option")
    return found


def refuse_all(name: str, written: Written) -> None:
    """Raise `ConfigError` if there is an option for a handler that has none."""
    for key, (_, file) in written.items():
        raise ConfigError(
            f"{file}: unknown key {shown(f'handler.{key}')}, the handler {name} has no options"
        )


def _checked(name: str, options: Mapping[str, Option], written: Written) -> dict[str, Any]:
    for key, (_, file) in written.items():
        if key not in options:
            raise ConfigError(
                f"{file}: unknown key {shown(f'handler.{key}')}, allowed in [handler]"
                f" for the handler {name} are {', '.join(options)}"
            )
    values = {}
    for key, option in options.items():
        if key not in written:
            if option.required:
                raise ConfigError(
                    f"the handler {name} needs handler.{key} in the configuration: {option.about}"
                )
            values[key] = _value(option, option.default, f"handler {name!r}: the default of {key}")
        else:
            value, file = written[key]
            values[key] = _value(option, value, f"{file}: handler.{key}")
    return values


def _value(option: Option, value: Any, place: str) -> Any:
    try:
        return option.checked(value)
    except ValueError as error:
        raise ConfigError(f"{place} {error}, not {shown(value)}") from None
    except Exception as error:
        raise ConfigError(f"{place} cannot be checked: {summary_of(error)}") from error


def _as_written(written: Written) -> dict[str, Any]:
    return {key: value for key, (value, _) in written.items()}


def _call(hook: Any, name: str, written: Written, values: dict[str, Any]) -> None:
    try:
        hook(values)
    except ValueError as error:
        files = ", ".join(dict.fromkeys(file for _, file in written.values()))
        where = f"{files}: [handler]" if files else f"handler {name!r}:"
        raise ConfigError(f"{where} {' '.join(str(error).split())}") from error
    except BaseException as error:
        raise ConfigError(
            f"handler {name!r} fails in {HOOK}(): {' '.join(summary_of(error).split())}"
        ) from error
