"""The configuration: files and options become `Settings`, and can be printed as TOML.

Values come from built-in defaults, then ``/etc/graced/graced.toml``, then
``/etc/graced/conf.d/*.toml`` in the order of their names, then command-line options; the last
value of a key wins.  An instance has files of its own instead (`graced.app.instance`).  A key that
is unknown, of the wrong type or out of range is an error that names the file, the key and the
allowed values.  The keys of the section ``[handler]`` are not known here.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from types import SimpleNamespace

from graced.app.instance import MAIN
from graced.app.settings import BY_KEY, LONGEST_USER_TIMEOUT, SETTINGS, Settings
from graced.errors import ConfigError, UsageError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from graced.app.instance import Instance

    Options = Mapping[str, tuple[str, Any]]
    """Keys of the configuration with the command-line option and its value."""

HANDLER = "handler"
"""The section whose keys are the handler's own: `graced.handlers.configuring` checks them."""
SECTIONS = {HANDLER, *(setting.key.split(".")[0] for setting in SETTINGS)}
DEFAULT = "default"
_HEADERS = {f"[{section}]" for section in SECTIONS}
LONGEST_FILE = 1024 * 1024
"""Bytes of one file.  A device that never ends, or a log by mistake, must not fill the memory."""
_NULL = os.makedev(1, 3)
"""The number of /dev/null, which stands for an empty file."""


class Value(SimpleNamespace):
    """The effective value of one key."""

    written: Any
    """As it stands in TOML."""
    checked: Any
    """As it stands in `Settings`."""
    source: str
    """A path, the name of an option, or `DEFAULT`."""


def read(config: str | None, options: Options, instance: Instance = MAIN) -> dict[str, Value]:
    """The effective value of every key, in the order of `SETTINGS`; then options of the handler.

    `config`: the only file to read; None: the file of the instance and its drop-ins.
    Raises `ConfigError`, or `UsageError` for an option.
    """
    values = _defaults(instance)
    for path in _files(config, instance):
        for key, written in _items(path, _document(path)):
            checked = _checked(key, written, path) if key in BY_KEY else written
            values[key] = Value(written=written, checked=checked, source=path)
    for key, (option, written) in options.items():
        try:
            checked = BY_KEY[key].check(written)
        except ValueError as error:
            raise UsageError(f"{option} {error}, not {shown(written)}") from None
        values[key] = Value(written=written, checked=checked, source=option)
    _follow(values)
    _check_spread(values)
    _check_rules(values)
    return values


def _follow(values: Mapping[str, Value]) -> None:
    """Let the default of `user_timeout` be the time that a silent client has.

    Where TCP_USER_TIMEOUT is set, the kernel ends a silent client after that time and looks at no
    count of questions: a shorter time would make one lost packet fatal, a longer one keep ghosts.
    """
    timeout = values["server.user_timeout"]
    names = ("keepalive_idle", "keepalive_interval", "keepalive_count")
    idle, interval, count = (values[f"server.{name}"].checked for name in names)
    if timeout.source == DEFAULT and idle:
        timeout.written = min(idle + interval * count, LONGEST_USER_TIMEOUT)
        timeout.checked = timeout.written


def _check_spread(values: Mapping[str, Value]) -> None:
    """Raise `ConfigError` where the last clients would be told when they are closed."""
    spread, grace = values["shutdown.farewell_spread"], values["shutdown.grace_period"]
    if spread.checked and spread.checked >= grace.checked:
        raise ConfigError(
            f"{spread.source}: shutdown.farewell_spread must be shorter than shutdown.grace_period,"
            f" which is {grace.checked:g} s ({grace.source}), not {shown(spread.written)}"
        )


def _check_rules(values: Mapping[str, Value]) -> None:
    """Raise `ConfigError` for values that contradict each other."""
    listen = values["server.listen"]
    if any(address.tls for address in listen.checked):
        from graced.app.certificates import check_addresses  # noqa: PLC0415

        try:
            check_addresses(listen.checked, values["tls.certificate"].checked)
        except ValueError as error:
            raise ConfigError(f"{listen.source}: server.listen {error}") from None
    _check_access(values)


def _check_access(values: Mapping[str, Value]) -> None:
    """Raise `ConfigError` for a network that is both allowed and denied: no rule would decide."""
    allow, deny = values["access.allow"], values["access.deny"]
    allowed = {network.key for network in allow.checked}
    for network in deny.checked:
        if network.key in allowed:
            raise ConfigError(
                f"{deny.source}: access.deny must not name {network},"
                f" which access.allow names in {allow.source}"
            )


def load(config: str | None, options: Options, instance: Instance = MAIN) -> Settings:
    """The settings of files and options, see `read`."""
    return _settings(read(config, options, instance))


def salvage(config: str | None, options: Options, instance: Instance = MAIN) -> Settings:
    """The settings of a configuration that `load` refuses: every valid value of it.

    For the last words to inherited clients, before the start is refused.  Raises nothing.
    """
    values = _defaults(instance)
    paths: list[str] = []
    with suppress(ConfigError):
        paths = _files(config, instance)
    for path in paths:
        with suppress(ConfigError):
            for section, table in _document(path).items():
                for name, written in table.items() if isinstance(table, dict) else ():
                    with suppress(KeyError, ValueError):
                        value = values[f"{section}.{name}"]
                        value.checked = BY_KEY[f"{section}.{name}"].check(written)
                        value.source = path
    for key, (_, written) in options.items():
        with suppress(ValueError):
            values[key].checked = BY_KEY[key].check(written)
    return _settings(values)


def _defaults(instance: Instance) -> dict[str, Value]:
    defaults = {each.key: each.default for each in SETTINGS}
    defaults["daemon.pid_file"] = instance.pid_file
    return {
        key: Value(written=default, checked=BY_KEY[key].check(default), source=DEFAULT)
        for key, default in defaults.items()
    }


def _settings(values: Mapping[str, Value]) -> Settings:
    return Settings(
        **{key.split(".")[1]: values[key].checked for key in BY_KEY},
        options={
            key.partition(".")[2]: (value.written, value.source)
            for key, value in values.items()
            if key not in BY_KEY
        },
        farewell_is_written=values["shutdown.farewell"].source != DEFAULT,
    )


# Files.


def _files(config: str | None, instance: Instance) -> list[str]:
    """The files to read.  Drop-ins belong to the default file: any other file stands alone.

    Only the main service may have no file: its defaults are a service, while an instance with
    defaults would be a second echo at the same address.  Names that begin with a dot are no
    drop-ins: editors leave such files behind.
    """
    main, drop_ins = instance.config_file, instance.drop_ins
    if config is not None and config != main:
        return [config]
    present = [main] if config or instance.name or os.path.lexists(main) else []
    try:
        names = sorted(os.listdir(drop_ins))
    except FileNotFoundError:
        if link := _dangling(drop_ins):
            # What it leads to may be on a disk that is missing: defaults would be a surprise.
            raise ConfigError(f"{link}: it is a link to what does not exist") from None
        names = []
    except OSError as error:
        raise ConfigError(f"{drop_ins}: {error.strerror}") from None
    found = [name for name in names if name.endswith(".toml") and not name.startswith(".")]
    return present + [os.path.join(drop_ins, name) for name in found]


def _dangling(path: str) -> str:
    """The part of a missing path that is a link; empty: the path is missing and no more."""
    while path != os.path.dirname(path):
        if os.path.lexists(path):
            return path if os.path.islink(path) and not os.path.exists(path) else ""
        path = os.path.dirname(path)
    return ""


def _document(path: str) -> dict[str, Any]:
    """The tables of a file.  Raises `ConfigError` if it is unreadable or no TOML."""
    try:
        text = _contents(path).decode()
        return {} if _has_no_value(text) else _parse(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        # TOMLDecodeError is a ValueError, and int() raises one at a number of endless digits.
        raise ConfigError(f"{path}: not TOML: {error}") from None


def _contents(path: str) -> bytes:
    """The bytes of a file.  Raises `OSError`, and `ConfigError` where it is no plain file.

    A start must not wait for a program that writes into a FIFO, and opening a device can change it.
    """
    _check_kind(path, os.stat(path))
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        # The path may lead to another file by now.
        _check_kind(path, os.fstat(fd))
        found = b""
        while more := os.read(fd, LONGEST_FILE + 1 - len(found)):
            found += more
        if len(found) > LONGEST_FILE:
            raise ConfigError(f"{path}: larger than {LONGEST_FILE} bytes")
    finally:
        os.close(fd)
    return found


def _check_kind(path: str, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"{path}: it is a directory, not a file")
    is_null = stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL
    if not (stat.S_ISREG(status.st_mode) or is_null):
        raise ConfigError(f"{path}: it is no plain file")


def _has_no_value(text: str) -> bool:
    """Whether a file has comments and empty sections only, as the shipped file has.

    Importing the parser (tomllib) would take 7.7 ms, a third of the start.
    """
    headers = []
    for line in text.split("\n"):
        bare = line.strip(" ")
        if bare in _HEADERS:
            headers.append(bare)
        elif bare and not (bare.startswith("#") and bare.isprintable()):
            return False
    return len(headers) == len(set(headers))


def _parse(text: str) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415

    if text.startswith("\ufeff"):
        raise ValueError("it begins with a byte order mark (U+FEFF), which TOML does not allow")
    return tomllib.loads(text)


def _items(path: str, document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The keys of a file with their values.  Raises `ConfigError` at an unknown key."""
    for section, table in document.items():
        if section not in SECTIONS:
            known = ", ".join(sorted(SECTIONS))
            raise ConfigError(f"{path}: unknown section {shown(section)}, allowed are {known}")
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {section} must be a section, not {shown(table)}")
        for name, written in table.items():
            key = f"{section}.{name}"
            if section != HANDLER and key not in BY_KEY:
                known = ", ".join(k.split(".")[1] for k in BY_KEY if k.startswith(f"{section}."))
                raise ConfigError(
                    f"{path}: unknown key {shown(key)}, allowed in [{section}] are {known}"
                )
            yield key, written


def _checked(key: str, written: Any, path: str) -> Any:
    try:
        return BY_KEY[key].check(written)
    except ValueError as error:
        raise ConfigError(f"{path}: {key} {error}, not {shown(written)}") from None


# TOML.


def as_toml(values: Mapping[str, Value]) -> str:
    """A file with every effective value and its source, which `read` would read back."""
    return "\n\n".join(_section(section, values) for section in _sections(values)) + "\n"


def _sections(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(key.split(".")[0] for key in values))


def _section(section: str, values: Mapping[str, Value]) -> str:
    lines = [f"[{section}]"]
    for key, value in values.items():
        prefix, _, name = key.partition(".")
        if prefix == section:
            setting = f"{key_in_toml(name)} = {literal(value.written)}"
            lines.append(f"{setting}  # {_comment(value.source)}")
    return "\n".join(lines)


def _comment(source: str) -> str:
    return source.encode("unicode_escape").decode()


def literal(value: Any) -> str:
    """A value in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        pairs = (f"{key_in_toml(name)} = {literal(each)}" for name, each in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, str):
        return f'"{"".join(map(_character, value))}"'
    # A date or a time, of which only the module has the type that has read it.
    return value.isoformat() if hasattr(value, "isoformat") else repr(value)


def key_in_toml(name: str) -> str:
    """A key in TOML, in quotes where it needs them."""
    is_bare = name.isascii() and name.replace("-", "_").replace("_", "a").isalnum()
    return name if is_bare else literal(name)


def _character(character: str) -> str:
    if character in {'"', "\\"}:
        return f"\\{character}"
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"
