"""The reading of a command line of graced(8).

`argparse` has the last word; `graced.app.parser` makes its parser of the table of options.  But
`argparse`, the modules that it imports and the making of the parser are a sixth of a start, and
1.2 MB of the 12 that the daemon has.  So a command line in which each option and each value is a
word of its own is read here, and `argparse` reads only a command line with anything else: a help, a
cluster, a mistake.  A test compares the two.
"""

from __future__ import annotations

from types import SimpleNamespace

from graced.app.instance import MAIN, Instance, named
from graced.app.options import OPTIONS, number
from graced.app.settings import BY_KEY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_BY_FLAG = {flag: option for option in OPTIONS for flag in option.flags}
_NAMES = {option.dest: option.flags[-1] for option in reversed(OPTIONS)}
"""How a message names the option behind a key: by its long name."""


class Given(SimpleNamespace):
    """The options of a command line."""

    config: str | None = None
    instance: Instance = MAIN
    daemon: bool = False
    check_config: bool = False
    print_config: bool = False
    describe: bool = False
    overrides: dict[str, tuple[str, Any]]
    """Keys of the configuration, each with the name and the value of its option."""


def parse(arguments: Sequence[str]) -> Given:
    """Read a command line, without the name of the program.

    Raises `UsageError`, and `SystemExit` after printing for ``--help`` and ``--version``.
    """
    given = read_plain(arguments)
    if given is None:
        from graced.app.parser import parser  # noqa: PLC0415

        given = vars(parser().parse_args(arguments))
    overrides = {key: (_NAMES[key], given.pop(key)) for key in BY_KEY if key in given}
    if "instance" in given:
        given["instance"] = named(given["instance"])
    return Given(**given, overrides=overrides)


def read_plain(arguments: Sequence[str]) -> dict[str, Any] | None:
    """The options of a command line whose options and values are words of their own.

    Returns None for any other command line, which needs `argparse`.
    """
    given: dict[str, Any] = {}
    words = iter(arguments)
    for word in words:
        option = _BY_FLAG.get(word)
        if option is None:
            return None
        if option.action == "store_const":
            given[option.dest] = option.const
            continue
        value = next(words, "-")
        if value.startswith("-"):
            return None
        if option.action == "append":
            given.setdefault(option.dest, []).append(value)
        elif option.action == "number":
            try:
                given[option.dest] = number(value)
            except ValueError:
                return None
        else:
            given[option.dest] = value
    return given
