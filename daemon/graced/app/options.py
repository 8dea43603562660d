"""The options of a command line of graced(8)."""

from __future__ import annotations

from types import SimpleNamespace

from graced.app.settings import BY_KEY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class Given(SimpleNamespace):
    """The options of a command line."""

    config: str | None = None
    daemon: bool = False
    check_config: bool = False
    print_config: bool = False
    overrides: dict[str, tuple[str, Any]]
    """Keys of the configuration, each with the name and the value of its option."""


SERVICE = ["--daemon"]
"""The command line of graced.service: the start of a device must not wait for `argparse`.  With the
modules that `argparse` imports and the making of the parser, that takes a sixth of a start."""


def parse(arguments: Sequence[str]) -> Given:
    """Read a command line, without the name of the program.

    Raises `UsageError`, and `SystemExit` after printing for ``--help`` and ``--version``.
    """
    if list(arguments) == SERVICE:
        return Given(daemon=True, overrides={})
    from graced.app.parser import parser  # noqa: PLC0415

    reader = parser()
    given = vars(reader.parse_args(arguments))
    names = {action.dest: action.option_strings[-1] for action in reversed(reader._actions)}
    overrides = {key: (names[key], given.pop(key)) for key in BY_KEY if key in given}
    return Given(**given, overrides=overrides)
