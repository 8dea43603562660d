"""The options of graced(8)."""

from __future__ import annotations

from graced.app.settings import CONFIG_FILE, LOG_LEVELS, PID_FILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Option:
    """An option of graced(8), in the words of `argparse.ArgumentParser.add_argument`."""

    __slots__ = ("action", "const", "dest", "flags", "help", "metavar")

    def __init__(
        self,
        *flags: str,
        dest: str = "",
        action: str = "store",
        const: Any = True,
        metavar: str | None = None,
        help: str,
    ) -> None:
        """Describe an option.

        `dest`: the key of the configuration that the option overrides, or a field of
        `graced.app.command_line.Given`; without one the name of the field is that of the last flag.
        `action`: store, append, number or store_const.  `help`: %(default)s stands for the default
        of the key.
        """
        self.flags = flags
        self.dest = dest or flags[-1].lstrip("-").replace("-", "_")
        self.action = action
        self.const = const
        self.metavar = metavar
        self.help = help


OPTIONS = (
    Option(
        "-c", "--config", metavar="FILE", help=f"the only file to read (default: {CONFIG_FILE})"
    ),
    Option(
        "-i",
        "--instance",
        metavar="NAME",
        help="the service graced@NAME, with the files /etc/graced/NAME.toml and NAME.d/*.toml",
    ),
    Option(
        "-l",
        "--listen",
        metavar="ADDRESS",
        action="append",
        dest="server.listen",
        help="HOST:PORT, [::1]:PORT, *:PORT or unix:/PATH; repeatable; port 0 picks a free one"
        " (default: %(default)s)",
    ),
    Option(
        "-g",
        "--grace",
        metavar="SECONDS",
        action="number",
        dest="shutdown.grace_period",
        help="time for clients to leave, from the first signal on (default: %(default)s)",
    ),
    Option(
        "-d",
        "--daemon",
        action="store_const",
        help="return when the daemon serves in the background (default: foreground)",
    ),
    Option(
        "-p",
        "--pid-file",
        metavar="PATH",
        dest="daemon.pid_file",
        help=f"(default: {PID_FILE} with --daemon, else none)",
    ),
    Option(
        "-H",
        "--handler",
        metavar="NAME",
        dest="server.handler",
        help="echo, echo-threaded, an entry point or package.module:Class (default: %(default)s)",
    ),
    Option(
        "--log-level",
        metavar="LEVEL",
        dest="log.level",
        help=f"{', '.join(LOG_LEVELS)} (default: %(default)s)",
    ),
    Option(
        "-v",
        action="store_const",
        const="debug",
        dest="log.level",
        help="the same as --log-level debug, which logs payloads too",
    ),
    Option(
        "-t",
        "--check-config",
        action="store_const",
        help="check all that a start would check, serve nothing, and exit",
    ),
    Option(
        "--print-config",
        action="store_const",
        help="print every effective value and its source as TOML, and exit",
    ),
    Option(
        "--describe",
        action="store_const",
        help="print what the handler is, its options and its documentation, and exit",
    ),
)


def number(text: str) -> float:
    """An integer if possible, so that an error of the settings shows the number as it was typed."""
    value = float(text)
    return int(value) if value.is_integer() else value
