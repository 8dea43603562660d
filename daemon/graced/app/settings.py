"""Every tunable, once: its key, type, range, default, unit and reason.

`graced.app.configuration` reads the values from files and options; `Settings` holds the result.

The classes of values are subclasses of `types.SimpleNamespace` with annotated fields;
CONTRIBUTING.md, "Conventions", says why.
"""

from __future__ import annotations

from types import SimpleNamespace

from graced.app import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.sockets.address import Address
    from graced.sockets.networks import Network

CONFIG_FILE = "/etc/graced/graced.toml"
DROP_INS = "/etc/graced/conf.d"
PID_FILE = "/run/graced/graced.pid"
LOG_LEVELS = ("debug", "info", "warning", "error")
EVENT_LOOPS = ("asyncio", "uvloop")
REFUSALS = ("tell", "drop")
KEEP = ("restart", "always", "never")
LONGEST_USER_TIMEOUT = 86400.0
"""Seconds."""


class Setting(SimpleNamespace):
    """One key of the configuration."""

    key: str
    """``section.name``"""
    default: Any
    """The default, as written in TOML."""
    check: Callable[[Any], Any]
    """Returns the value for `Settings` of a value in TOML or of an option.  Raises `ValueError`
    with the words that follow the key: "must be ..."."""
    unit: str
    reason: str
    """The reason for the default."""


SETTINGS = (
    Setting(
        key="server.listen",
        default=["localhost:9999"],
        check=values.addresses,
        unit="HOST:PORT, [::1]:PORT, *:PORT or unix:/PATH",
        reason="nothing but this machine can reach an unconfigured server",
    ),
    Setting(
        key="server.handler",
        default="echo",
        check=values.text,
        unit="echo, echo-threaded, an entry point or package.module:Class",
        reason="the echo service of RFC 862",
    ),
    Setting(
        key="server.backlog",
        default=1024,
        check=values.whole(1, 65535),
        unit="connections",
        reason="a fleet that reconnects at once fits; the kernel caps it at net.core.somaxconn",
    ),
    Setting(
        key="server.keepalive_idle",
        default=120.0,
        check=values.seconds(0, 32767),
        unit="s, 0 = never ask a silent client whether it is there",
        reason="a client whose power was cut keeps its place no longer than three minutes",
    ),
    Setting(
        key="server.keepalive_interval",
        default=15.0,
        check=values.seconds(1, 32767),
        unit="s",
        reason="four lost packets in a minute are no accident",
    ),
    Setting(
        key="server.keepalive_count",
        default=4,
        check=values.whole(1, 127),
        unit="questions without an answer",
        reason="four lost packets in a minute are no accident",
    ),
    Setting(
        key="server.user_timeout",
        default=180.0,
        check=values.seconds(0, LONGEST_USER_TIMEOUT),
        unit="s, 0 = the kernel decides, a quarter of an hour",
        reason="as long as a silent client has: idle + count * interval, and follows these",
    ),
    Setting(
        key="server.io_threads",
        default=0,
        check=values.whole(0, 64),
        unit="threads, 0 = one while Python has a GIL, else one per processor",
        reason="with a GIL a second thread only makes both wait for each other",
    ),
    Setting(
        key="server.event_loop",
        default="asyncio",
        check=values.one_of(EVENT_LOOPS),
        unit=", ".join(EVENT_LOOPS),
        reason="needs no other package, one descriptor for each client, and serves Unix sockets",
    ),
    Setting(
        key="server.proxy_protocol",
        default=[],
        check=values.proxies,
        unit="networks or addresses of proxies, unix = the clients of Unix sockets",
        reason="a client that is no proxy could claim any address",
    ),
    Setting(
        key="server.agent",
        default="",
        check=values.agent,
        unit="HOST:PORT, [::1]:PORT or *:PORT, empty = no agent",
        reason="only HAProxy asks, and where there is none a port less is open",
    ),
    Setting(
        key="tls.certificate",
        default="",
        check=values.file,
        unit="absolute path of a PEM file, or name of a credential; empty = none",
        reason="nobody else can know it; addresses of server.listen that begin with tls: need it",
    ),
    Setting(
        key="tls.private_key",
        default="",
        check=values.file,
        unit="absolute path of a PEM file, or name of a credential; empty = tls.certificate",
        reason="both may be in one file",
    ),
    Setting(
        key="tls.client_ca",
        default="",
        check=values.file,
        unit="absolute path of a PEM file, or name of a credential; empty = none",
        reason="clients need no certificate",
    ),
    Setting(
        key="shutdown.grace_period",
        default=5.0,
        check=values.seconds(0, 86400),
        unit="s",
        reason="long enough for a client to finish a request, short enough for a reboot",
    ),
    Setting(
        key="shutdown.farewell",
        default="SHUTDOWN",
        check=values.farewell,
        unit="text, empty = say nothing",
        reason="what clients of the built-in echo compare with; other handlers: as written here",
    ),
    Setting(
        key="shutdown.farewell_gap",
        default=0.1,
        check=values.seconds(0, 60),
        unit="s",
        reason="the silence around the farewell that makes it a message of its own",
    ),
    Setting(
        key="shutdown.farewell_spread",
        default=0.0,
        check=values.seconds(0, 86400),
        unit="s, 0 = all at once; shorter than grace_period",
        reason="clients that know at once have all of the grace period to finish",
    ),
    Setting(
        key="shutdown.lame_duck",
        default=0.0,
        check=values.seconds(0, 86400),
        unit="s, 0 = none",
        reason="without a load balancer nobody looks away, and a stop would only take longer",
    ),
    Setting(
        key="access.allow",
        default=[],
        check=values.networks,
        unit="networks or addresses, none = all hosts but those of access.deny",
        reason="server.listen says from where an unconfigured server can be reached",
    ),
    Setting(
        key="access.deny",
        default=[],
        check=values.networks,
        unit="networks or addresses; the most specific of allow and deny decides",
        reason="nobody is known to be unwelcome",
    ),
    Setting(
        key="access.refusal",
        default="tell",
        check=values.one_of(REFUSALS),
        unit=", ".join(REFUSALS),
        reason="a client that is refused by mistake finds out why it was not served",
    ),
    Setting(
        key="limits.max_clients",
        default=4096,
        check=values.whole(1, 1_000_000),
        unit="clients",
        reason="one descriptor each: below the unit's LimitNOFILE",
    ),
    Setting(
        key="limits.max_clients_per_host",
        default=0,
        check=values.whole(0, 1_000_000),
        unit="clients, 0 = as many as max_clients",
        reason="behind a NAT or a proxy all clients share one address",
    ),
    Setting(
        key="limits.max_new_per_second",
        default=0,
        check=values.whole(0, 1_000_000),
        unit="clients, 0 = as many as come; up to as many at once",
        reason="a fleet that reconnects at once is no attack",
    ),
    Setting(
        key="limits.max_new_per_second_per_host",
        default=0,
        check=values.whole(0, 1_000_000),
        unit="clients, 0 = as many as come; up to as many at once",
        reason="behind a NAT or a proxy all clients share one address",
    ),
    Setting(
        key="limits.idle_timeout",
        default=0.0,
        check=values.seconds(0, 31_536_000),
        unit="s, 0 = none",
        reason="a client that has nothing to say is no fault",
    ),
    Setting(
        key="limits.stall_timeout",
        default=60.0,
        check=values.seconds(0, 86400),
        unit="s, 0 = none",
        reason="a client that takes none of its bytes for so long has gone",
    ),
    Setting(
        key="limits.max_handler_threads",
        default=256,
        check=values.whole(1, 32768),
        unit="threads",
        reason="one per client whose handler blocks: below the unit's TasksMax",
    ),
    Setting(
        key="continuity.keep",
        default="restart",
        check=values.one_of(KEEP),
        unit=", ".join(KEEP),
        reason="clients stay connected at a restart, at no cost while clients are served",
    ),
    Setting(
        key="log.level",
        default="info",
        check=values.one_of(LOG_LEVELS),
        unit=", ".join(LOG_LEVELS),
        reason="payloads are logged at debug",
    ),
    Setting(
        key="log.connections",
        default=True,
        check=values.boolean,
        unit="true or false",
        reason="who came, who left, and why; two lines a client",
    ),
    Setting(
        key="log.probes",
        default=True,
        check=values.boolean,
        unit="true or false",
        reason="an attack, a fault of the network or a health check: nothing is kept from the log",
    ),
    Setting(
        key="daemon.pid_file",
        default=PID_FILE,
        check=values.text,
        unit="path",
        reason="what systemd and scripts expect of a forking daemon",
    ),
)
BY_KEY = {setting.key: setting for setting in SETTINGS}


class Settings(SimpleNamespace):
    """The checked values, named like the keys without their section."""

    @property
    def has_tls(self) -> bool:
        """Whether a listener is to speak TLS."""
        return any(address.tls for address in self.listen)

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
    agent: Address | None
    certificate: str
    private_key: str
    client_ca: str
    grace_period: float
    farewell: bytes
    farewell_is_written: bool
    """Whether somebody wrote the farewell down, in a file; the default is for the built-in echo."""
    farewell_gap: float
    farewell_spread: float
    lame_duck: float
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
