"""The options by which commands of gracectl(1) choose clients."""

from __future__ import annotations

import argparse
from contextlib import suppress
from math import inf
from typing import Any

from graced.errors import UsageError

_NAMES = ("client", "host", "phase", "idle")


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options to the parser of a command."""
    command.add_argument("client", metavar="CLIENT", nargs="?", help="an address as in the log")
    command.add_argument(
        "--host", metavar="NET", help="only those of an address, or of a network as 192.0.2.0/24"
    )
    command.add_argument("--phase", metavar="PHASE", help="only those in this phase")
    command.add_argument(
        "--idle", metavar="SECONDS", type=_seconds, help="only those without a byte for so long"
    )


def given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The parameters of the call for the options that are given."""
    values = {name: getattr(arguments, name) for name in _NAMES}
    return {name: value for name, value in values.items() if value is not None}


def chosen(arguments: argparse.Namespace) -> dict[str, Any]:
    """The same for a command that does something to clients.  Raises `UsageError`."""
    found = given(arguments)
    if not found:
        raise UsageError("name a client, or choose some by --host, --phase or --idle (see --help)")
    return found


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (number := float(text)) < inf:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
