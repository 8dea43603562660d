"""``gracectl close``: close clients of a running service."""

from __future__ import annotations

import argparse
import json
from typing import Any

from graced.ctl import control, filters
from graced.log.event import plural

NONE = 1
"""The exit status where no client was chosen."""


def add_command(commands: Any) -> None:
    """Add the command to the parser of gracectl(1)."""
    command = commands.add_parser(
        "close",
        help="close clients of a running service, at once and without a farewell",
        description="Close one client of a running service, or all that the options choose: at"
        " once, without a farewell. For root and the user of the service.",
        epilog=control.STATUSES.replace("0 success", "0 closed, 1 no such client", 1),
    )
    command.set_defaults(run=run)
    filters.add_options(command)
    control.add_options(command)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit status.

    Raises `UsageError`, `ControlError`, and `OSError` for its output.
    """
    (reply,) = control.ask(arguments, "CloseClients", **filters.chosen(arguments))
    closed: int = reply["closed"]
    print(json.dumps(reply) if arguments.json else f"{plural(closed, 'client')} closed")
    return 0 if closed else NONE
