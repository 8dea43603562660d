"""The parser of graced(8), and the conventions of the command lines of graced and gracectl.

An option is never abbreviated: `--grac` would become ambiguous, or mean something else, with the
next version.
"""

from __future__ import annotations

import os
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter

from graced import __version__
from graced.app.settings import BY_KEY, CONFIG_FILE, LOG_LEVELS, PID_FILE
from graced.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_HELP_COLUMN = 32
_NARROWEST = 80
_MARGIN = 2

_SIGNALS = """\
signals:
  TERM, HUP             stop: tell the clients, and wait for them for the grace period
  INT, QUIT             the same; a second one ends the grace period
  USR1                  log the status
  USR2                  hand the clients over to the next start (systemctl restart)

exit status:
  0 graceful stop, 1 unexpected failure, 2 usage, 69 cannot listen, 73 pidfile, 75 already running,
  78 configuration, 79 handed over"""


class Parser(ArgumentParser):
    """A parser by our conventions: no abbreviations, and a mistake is a `UsageError`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_formatter, **options)

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError`.  Unlike `argparse`, print no usage: one line says the mistake."""
        raise UsageError(f"{message} (see --help)")


def _formatter(prog: str) -> RawDescriptionHelpFormatter:
    """A formatter with the width of the terminal.

    `argparse` makes a formatter for every option that is added, and one without a width imports
    `shutil`, which takes 3 ms.
    """
    return RawDescriptionHelpFormatter(prog, max_help_position=_HELP_COLUMN, width=_width())


def _width() -> int:
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > _MARGIN:
        return int(columns) - _MARGIN
    try:
        return max(os.get_terminal_size().columns, _NARROWEST) - _MARGIN
    except OSError:
        return _NARROWEST - _MARGIN


def parser() -> Parser:
    """The parser of graced(8).

    An option that is not given is absent from the namespace.  An option that overrides a key of
    the configuration has the key as its name there.
    """
    found = Parser(
        prog="graced",
        description="A TCP server that says goodbye properly; an echo server (RFC 862) unless"
        " another handler is named.",
        epilog=_SIGNALS,
        argument_default=SUPPRESS,
    )
    add = found.add_argument
    add("-c", "--config", metavar="FILE", help=f"the only file to read (default: {CONFIG_FILE})")
    add(
        "-l",
        "--listen",
        metavar="ADDRESS",
        action="append",
        dest="server.listen",
        help="HOST:PORT, [::1]:PORT, *:PORT or unix:/PATH; repeatable; port 0 picks a free one"
        f" (default: {', '.join(_default('server.listen'))})",
    )
    add(
        "-g",
        "--grace",
        metavar="SECONDS",
        type=_number,
        dest="shutdown.grace_period",
        help="time for clients to leave, from the first signal on"
        f" (default: {_default('shutdown.grace_period'):g})",
    )
    add(
        "-d",
        "--daemon",
        action="store_true",
        help="return when the daemon serves in the background (default: foreground)",
    )
    add(
        "-p",
        "--pid-file",
        metavar="PATH",
        dest="daemon.pid_file",
        help=f"(default: {PID_FILE} with --daemon, else none)",
    )
    add(
        "-H",
        "--handler",
        metavar="NAME",
        dest="server.handler",
        help="echo, echo-threaded, an entry point or package.module:Class"
        f" (default: {_default('server.handler')})",
    )
    add(
        "--log-level",
        metavar="LEVEL",
        dest="log.level",
        help=f"{', '.join(LOG_LEVELS)} (default: {_default('log.level')})",
    )
    add(
        "-v",
        action="store_const",
        const="debug",
        dest="log.level",
        help="the same as --log-level debug, which logs payloads too",
    )
    add(
        "-t",
        "--check-config",
        action="store_true",
        help="check all that a start would check, serve nothing, and exit",
    )
    add(
        "--print-config",
        action="store_true",
        help="print every effective value and its source as TOML, and exit",
    )
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return found


def _default(key: str) -> Any:
    return BY_KEY[key].default


def _number(text: str) -> float:
    """An integer if possible, so that an error of the settings shows the number as it was typed."""
    try:
        value = float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a number") from None
    return int(value) if value.is_integer() else value
