"""Every tunable, once: where it is set, its type, range, default, unit and reason.

Values come from built-in defaults, then ``/etc/graced/graced.toml``, then
``/etc/graced/conf.d/*.toml`` in the order of their names, then command-line options; the last one
wins.  What is unknown, of the wrong type or out of range is an error that names file, key and
what is allowed.
"""

from __future__ import annotations

import os
from types import SimpleNamespace

from graced.errors import ConfigError, UsageError
from graced.sockets.address import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    Check = Callable[[Any], Any]

CONFIG_FILE = "/etc/graced/graced.toml"
DROP_INS = "/etc/graced/conf.d"
PID_FILE = "/run/graced/graced.pid"
LOG_LEVELS = ("debug", "info", "warning", "error")
KEEP = ("restart", "always", "never")


def _seconds(low: float, high: float) -> Check:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("must be a number of seconds")
        if not low <= value <= high:
            raise ValueError(f"must be from {low:g} to {high:g} seconds")
        return float(value)

    return check


def _whole(low: int, high: int) -> Check:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError("must be a whole number")
        if not low <= value <= high:
            raise ValueError(f"must be from {low} to {high}")
        return value

    return check


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("must be a string that is not empty")
    return value


def _farewell(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    data = value.encode("utf-8", "surrogateescape")
    if len(data) > 1024:
        raise ValueError("must be 1024 bytes at most")
    return data


def _level(value: Any) -> str:
    if value not in LOG_LEVELS:
        raise ValueError(f"must be one of {', '.join(LOG_LEVELS)}")
    return str(value)


def _keep(value: Any) -> str:
    if value not in KEEP:
        raise ValueError(f"must be one of {', '.join(KEEP)}")
    return str(value)


def _addresses(value: Any) -> tuple[Address, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise ValueError("must be an address or a list of addresses")
    return tuple(Address.parse(text) for text in value)


class Setting:
    """One key of the configuration."""

    __slots__ = ("check", "default", "key", "reason", "unit")

    def __init__(self, key: str, default: Any, check: Check, unit: str, reason: str) -> None:
        self.key = key
        """``section.name``"""
        self.default = default
        """As it would be written in TOML."""
        self.check = check
        """Turns what TOML or an option gave into the value; raises `ValueError` that says what is
        allowed."""
        self.unit = unit
        self.reason = reason


SETTINGS = (
    Setting(
        "server.listen",
        ["localhost:9999"],
        _addresses,
        "HOST:PORT, [::1]:PORT, *:PORT or unix:/PATH",
        "nothing but this machine can reach an unconfigured server",
    ),
    Setting(
        "server.handler",
        "echo",
        _text,
        "echo, echo-threaded, an entry point or package.module:Class",
        "the echo service of RFC 862",
    ),
    Setting(
        "server.backlog",
        1024,
        _whole(1, 65535),
        "connections",
        "a fleet that reconnects at once fits; the kernel caps it at net.core.somaxconn",
    ),
    Setting(
        "server.io_threads",
        0,
        _whole(0, 64),
        "threads, 0 = one while Python has a GIL, else one per processor",
        "with a GIL a second thread only makes both wait for each other",
    ),
    Setting(
        "shutdown.grace_period",
        5.0,
        _seconds(0, 86400),
        "s",
        "long enough for a client to finish a request, short enough for a reboot",
    ),
    Setting(
        "shutdown.farewell",
        "SHUTDOWN",
        _farewell,
        "text, empty = say nothing",
        "what clients of the service compare with",
    ),
    Setting(
        "shutdown.farewell_gap",
        0.1,
        _seconds(0, 60),
        "s",
        "the silence around the farewell that makes it a message of its own",
    ),
    Setting(
        "limits.max_clients",
        4096,
        _whole(1, 1_000_000),
        "clients",
        "one descriptor each: below the unit's LimitNOFILE",
    ),
    Setting(
        "limits.max_clients_per_host",
        0,
        _whole(0, 1_000_000),
        "clients, 0 = as many as max_clients",
        "behind a NAT or a proxy all clients share one address",
    ),
    Setting(
        "limits.idle_timeout",
        0.0,
        _seconds(0, 31_536_000),
        "s, 0 = none",
        "a client that has nothing to say is no fault",
    ),
    Setting(
        "limits.stall_timeout",
        60.0,
        _seconds(0, 86400),
        "s, 0 = none",
        "a client that takes none of its bytes for so long has gone",
    ),
    Setting(
        "limits.max_handler_threads",
        256,
        _whole(1, 32768),
        "threads",
        "one per client whose handler blocks: below the unit's TasksMax",
    ),
    Setting(
        "continuity.keep",
        "restart",
        _keep,
        ", ".join(KEEP),
        "a restart or an upgrade is noticed by nobody, at no cost while clients are served",
    ),
    Setting("log.level", "info", _level, ", ".join(LOG_LEVELS), "payloads are logged at debug"),
    Setting(
        "log.connections",
        True,
        _boolean,
        "true or false",
        "who came, who left, and why; two lines a client",
    ),
    Setting(
        "daemon.pid_file",
        PID_FILE,
        _text,
        "path",
        "what systemd and scripts expect of a forking daemon",
    ),
)


class Settings(SimpleNamespace):
    """The checked values, named like the keys."""

    listen: tuple[Address, ...]
    handler: str
    backlog: int
    io_threads: int
    grace_period: float
    farewell: bytes
    farewell_gap: float
    max_clients: int
    max_clients_per_host: int
    idle_timeout: float
    stall_timeout: float
    max_handler_threads: int
    keep: str
    level: str
    connections: bool
    pid_file: str


_BY_KEY = {setting.key: setting for setting in SETTINGS}
_SECTIONS = {setting.key.split(".")[0] for setting in SETTINGS}
_HEADERS = {f"[{section}]" for section in _SECTIONS}


def _checked(key: str, value: Any, path: str) -> Any:
    try:
        return _BY_KEY[key].check(value)
    except ValueError as error:
        raise ConfigError(f"{path}: {key} {error}, not {_shown(value)}") from None


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read(path: str, *, lenient: bool) -> Iterable[tuple[str, Any]]:
    try:
        with open(path, "rb") as file:
            data = file.read()
        document = {} if _says_nothing(data) else _parse(data)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        # TOMLDecodeError is a ValueError, and so is what int() says to a number without end.
        raise ConfigError(f"{path}: not TOML: {error}") from None
    for section, table in document.items():
        if section not in _SECTIONS:
            if lenient:
                continue
            known = ", ".join(sorted(_SECTIONS))
            raise ConfigError(f"{path}: unknown section {_shown(section)}, allowed are {known}")
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {section} must be a section, not {_shown(table)}")
        for name, value in table.items():
            key = f"{section}.{name}"
            if key not in _BY_KEY:
                if lenient:
                    continue
                known = ", ".join(k.split(".")[1] for k in _BY_KEY if k.startswith(f"{section}."))
                raise ConfigError(
                    f"{path}: unknown key {_shown(key)}, allowed in [{section}] are {known}"
                )
            yield key, value


def _says_nothing(data: bytes) -> bool:
    """Whether there are only comments and empty sections in it, as in the file that ships.

    The parser costs a tenth of the start, and only who has something to say needs it.
    """
    headers = []
    for line in data.decode().split("\n"):
        text = line.strip(" ")
        if text in _HEADERS:
            headers.append(text)
        elif text and not (text.startswith("#") and text.isprintable()):
            return False
    return len(headers) == len(set(headers))


def _parse(data: bytes) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415

    return tomllib.loads(data.decode())


def _files(named: str | None) -> list[str]:
    """The files to read.  The drop-ins belong to the default file: a named one stands alone."""
    if named is not None and named != CONFIG_FILE:
        return [named]
    present = [CONFIG_FILE] if named or os.path.exists(CONFIG_FILE) else []
    try:
        drop_ins = sorted(name for name in os.listdir(DROP_INS) if name.endswith(".toml"))
    except FileNotFoundError:
        drop_ins = []
    except OSError as error:
        raise ConfigError(f"{DROP_INS}: {error.strerror}") from None
    return present + [os.path.join(DROP_INS, name) for name in drop_ins]


def load(
    config: str | None, options: Mapping[str, tuple[str, Any]], *, lenient: bool = False
) -> Settings:
    """Read everything.  `options` maps keys to command-line options, by name and value.

    `lenient`: what is unknown is no error, it may be for the next version.

    Raises `ConfigError`, or `UsageError` for an option.
    """
    values = {setting.key: setting.check(setting.default) for setting in SETTINGS}
    for path in _files(config):
        for key, value in _read(path, lenient=lenient):
            values[key] = _checked(key, value, path)
    for key, (option, value) in options.items():
        try:
            values[key] = _BY_KEY[key].check(value)
        except ValueError as error:
            raise UsageError(f"{option} {error}, not {_shown(value)}") from None
    return Settings(**{key.split(".")[1]: value for key, value in values.items()})
