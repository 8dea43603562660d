"""The parser of graced(8), and the conventions of the command lines of graced and gracectl.

An option is never abbreviated: `--grac` would become ambiguous, or mean something else, with the
next version.
"""

from __future__ import annotations

import os
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter

from graced import __version__
from graced.app.options import OPTIONS, Option, number
from graced.app.settings import BY_KEY
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

    An option that is not given is absent from the namespace.
    """
    found = Parser(
        prog="graced",
        description="A TCP server that says goodbye properly; an echo server (RFC 862) unless"
        " another handler is named.",
        epilog=_SIGNALS,
        argument_default=SUPPRESS,
    )
    for option in OPTIONS:
        found.add_argument(
            *option.flags,
            dest=option.dest,
            help=option.help.replace("%(default)s", _default(option.dest)),
            **_ways(option),
        )
    found.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return found


def _ways(option: Option) -> dict[str, Any]:
    """The arguments of `add_argument` that depend on the action."""
    if option.action == "store_const":
        return {"action": "store_const", "const": option.const}
    if option.action == "number":
        return {"type": _number, "metavar": option.metavar}
    return {"action": option.action, "metavar": option.metavar}


def _default(key: str) -> str:
    default = BY_KEY[key].default if key in BY_KEY else None
    return ", ".join(default) if isinstance(default, list | tuple) else f"{default}"


def _number(text: str) -> float:
    try:
        return number(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a number") from None
