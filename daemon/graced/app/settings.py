"""Every tunable, once: its key, type, range, default, unit and reason.

`graced.app.configuration` reads the values from files and options; `Settings` holds the result.

The classes of values are subclasses of `types.SimpleNamespace` with annotated fields;
CONTRIBUTING.md, "Conventions", says why.
"""

from __future__ import annotations

from types import SimpleNamespace

from graced.sockets.address import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.sockets.networks import Network

    Check = Callable[[Any], Any]

CONFIG_FILE = "/etc/graced/graced.toml"
DROP_INS = "/etc/graced/conf.d"
PID_FILE = "/run/graced/graced.pid"
LOG_LEVELS = ("debug", "info", "warning", "error")
EVENT_LOOPS = ("asyncio", "uvloop")
REFUSALS = ("tell", "drop")
UNIX = "unix"
"""In place of a network, the clients of all Unix sockets."""
KEEP = ("restart", "always", "never")
LONGEST_USER_TIMEOUT = 86400.0
"""Seconds."""
MAX_FAREWELL = 1024
"""Bytes."""


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
    if len(data) > MAX_FAREWELL:
        raise ValueError(f"must be {MAX_FAREWELL} bytes at most")
    return data


def _one_of(allowed: tuple[str, ...]) -> Check:
    def check(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return str(value)

    return check


def _addresses(value: Any) -> tuple[Address, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise ValueError("must be an address or a list of addresses")
    found = tuple(Address.parse(text) for text in value)
    for address in found:
        address.check_is_for_listening()
    return found


def _networks(value: Any) -> tuple[Network, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise ValueError("must be a network or a list of networks")
    if not value:
        return ()
    # Most configurations have no network, and need no module for it.
    from graced.sockets.networks import Network  # noqa: PLC0415

    found = {}
    for network in map(Network.parse, value):
        if network.key in found:
            raise ValueError(f"must name {network} once")
        found[network.key] = network
    return tuple(found.values())


def _proxies(value: Any) -> tuple[Network | str, ...]:
    written = [value] if isinstance(value, str) else value
    if not isinstance(written, list) or UNIX not in written:
        return _networks(written)
    return (*_networks([each for each in written if each != UNIX]), UNIX)


class Setting(SimpleNamespace):
    """One key of the configuration."""

    key: str
    """``section.name``"""
    default: Any
    """The default, as written in TOML."""
    check: Check
    """Returns the value for `Settings` of a value in TOML or of an option.  Raises `ValueError`
    with the words that follow the key: "must be ..."."""
    unit: str
    reason: str
    """The reason for the default."""


SETTINGS = (
    Setting(
        key="server.listen",
        default=["localhost:9999"],
        check=_addresses,
        unit="HOST:PORT, [::1]:PORT, *:PORT or unix:/PATH",
        reason="nothing but this machine can reach an unconfigured server",
    ),
    Setting(
        key="server.handler",
        default="echo",
        check=_text,
        unit="echo, echo-threaded, an entry point or package.module:Class",
        reason="the echo service of RFC 862",
    ),
    Setting(
        key="server.backlog",
        default=1024,
        check=_whole(1, 65535),
        unit="connections",
        reason="a fleet that reconnects at once fits; the kernel caps it at net.core.somaxconn",
    ),
    Setting(
        key="server.keepalive_idle",
        default=120.0,
        check=_seconds(0, 32767),
        unit="s, 0 = never ask a silent client whether it is there",
        reason="a client whose power was cut keeps its place no longer than three minutes",
    ),
    Setting(
        key="server.keepalive_interval",
        default=15.0,
        check=_seconds(1, 32767),
        unit="s",
        reason="four lost packets in a minute are no accident",
    ),
    Setting(
        key="server.keepalive_count",
        default=4,
        check=_whole(1, 127),
        unit="questions without an answer",
        reason="four lost packets in a minute are no accident",
    ),
    Setting(
        key="server.user_timeout",
        default=180.0,
        check=_seconds(0, LONGEST_USER_TIMEOUT),
        unit="s, 0 = the kernel decides, a quarter of an hour",
        reason="as long as a silent client has: idle + count * interval, and follows these",
    ),
    Setting(
        key="server.io_threads",
        default=0,
        check=_whole(0, 64),
        unit="threads, 0 = one while Python has a GIL, else one per processor",
        reason="with a GIL a second thread only makes both wait for each other",
    ),
    Setting(
        key="server.event_loop",
        default="asyncio",
        check=_one_of(EVENT_LOOPS),
        unit=", ".join(EVENT_LOOPS),
        reason="needs no other package, one descriptor for each client, and serves Unix sockets",
    ),
    Setting(
        key="server.proxy_protocol",
        default=[],
        check=_proxies,
        unit="networks or addresses of proxies, unix = the clients of Unix sockets",
        reason="a client that is no proxy could claim any address",
    ),
    Setting(
        key="shutdown.grace_period",
        default=5.0,
        check=_seconds(0, 86400),
        unit="s",
        reason="long enough for a client to finish a request, short enough for a reboot",
    ),
    Setting(
        key="shutdown.farewell",
        default="SHUTDOWN",
        check=_farewell,
        unit="text, empty = say nothing",
        reason="what clients of the built-in echo compare with; other handlers: as written here",
    ),
    Setting(
        key="shutdown.farewell_gap",
        default=0.1,
        check=_seconds(0, 60),
        unit="s",
        reason="the silence around the farewell that makes it a message of its own",
    ),
    Setting(
        key="access.allow",
        default=[],
        check=_networks,
        unit="networks or addresses, none = all hosts but those of access.deny",
        reason="server.listen says from where an unconfigured server can be reached",
    ),
    Setting(
        key="access.deny",
        default=[],
        check=_networks,
        unit="networks or addresses; the most specific of allow and deny decides",
        reason="nobody is known to be unwelcome",
    ),
    Setting(
        key="access.refusal",
        default="tell",
        check=_one_of(REFUSALS),
        unit=", ".join(REFUSALS),
        reason="a client that is refused by mistake finds out why it was not served",
    ),
    Setting(
        key="limits.max_clients",
        default=4096,
        check=_whole(1, 1_000_000),
        unit="clients",
        reason="one descriptor each: below the unit's LimitNOFILE",
    ),
    Setting(
        key="limits.max_clients_per_host",
        default=0,
        check=_whole(0, 1_000_000),
        unit="clients, 0 = as many as max_clients",
        reason="behind a NAT or a proxy all clients share one address",
    ),
    Setting(
        key="limits.max_new_per_second",
        default=0,
        check=_whole(0, 1_000_000),
        unit="clients, 0 = as many as come; up to as many at once",
        reason="a fleet that reconnects at once is no attack",
    ),
    Setting(
        key="limits.max_new_per_second_per_host",
        default=0,
        check=_whole(0, 1_000_000),
        unit="clients, 0 = as many as come; up to as many at once",
        reason="behind a NAT or a proxy all clients share one address",
    ),
    Setting(
        key="limits.idle_timeout",
        default=0.0,
        check=_seconds(0, 31_536_000),
        unit="s, 0 = none",
        reason="a client that has nothing to say is no fault",
    ),
    Setting(
        key="limits.stall_timeout",
        default=60.0,
        check=_seconds(0, 86400),
        unit="s, 0 = none",
        reason="a client that takes none of its bytes for so long has gone",
    ),
    Setting(
        key="limits.max_handler_threads",
        default=256,
        check=_whole(1, 32768),
        unit="threads",
        reason="one per client whose handler blocks: below the unit's TasksMax",
    ),
    Setting(
        key="continuity.keep",
        default="restart",
        check=_one_of(KEEP),
        unit=", ".join(KEEP),
        reason="clients stay connected at a restart, at no cost while clients are served",
    ),
    Setting(
        key="log.level",
        default="info",
        check=_one_of(LOG_LEVELS),
        unit=", ".join(LOG_LEVELS),
        reason="payloads are logged at debug",
    ),
    Setting(
        key="log.connections",
        default=True,
        check=_boolean,
        unit="true or false",
        reason="who came, who left, and why; two lines a client",
    ),
    Setting(
        key="log.probes",
        default=True,
        check=_boolean,
        unit="true or false",
        reason="an attack, a fault of the network or a health check: nothing is kept from the log",
    ),
    Setting(
        key="daemon.pid_file",
        default=PID_FILE,
        check=_text,
        unit="path",
        reason="what systemd and scripts expect of a forking daemon",
    ),
)
BY_KEY = {setting.key: setting for setting in SETTINGS}


class Settings(SimpleNamespace):
    """The checked values, named like the keys without their section."""

    listen: tuple[Address, ...]
    handler: str
    backlog: int
    keepalive_idle: float
    keepalive_interval: float
    keepalive_count: int
    user_timeout: float
    io_threads: int
    event_loop: str
    proxy_protocol: tuple[Network | str, ...]
    grace_period: float
    farewell: bytes
    farewell_is_written: bool
    """Whether somebody wrote the farewell down, in a file; the default is for the built-in echo."""
    farewell_gap: float
    allow: tuple[Network, ...]
    deny: tuple[Network, ...]
    refusal: str
    max_clients: int
    max_clients_per_host: int
    max_new_per_second: int
    max_new_per_second_per_host: int
    idle_timeout: float
    stall_timeout: float
    max_handler_threads: int
    keep: str
    level: str
    connections: bool
    probes: bool
    pid_file: str
    options: dict[str, tuple[Any, str]]
    """The options of the handler as written, each with its file."""
