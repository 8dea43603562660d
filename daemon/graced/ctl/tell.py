"""``gracectl tell``: tell clients of a running service that it is going offline."""

from __future__ import annotations

import argparse
import json
from typing import Any

from graced.ctl import control, filters
from graced.log.event import plural

NONE = 1
"""The exit status where nobody was told."""


def add_command(commands: Any) -> None:
    """Add the command to the parser of gracectl(1)."""
    command = commands.add_parser(
        "tell",
        help="say goodbye to clients of a running service, which have the grace period then",
        description="Tell one client of a running service, or all that the options choose, that"
        " the server is going offline: as a stop does, when the client is at rest. Each is closed"
        " after the grace period; all others are served on. For root and the user of the service.",
        epilog=control.STATUSES.replace("0 success", "0 told, 1 no client that is not told yet", 1),
    )
    command.set_defaults(run=run)
    filters.add_options(command)
    control.add_options(command)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit status.

    Raises `UsageError`, `ControlError`, and `OSError` for its output.
    """
    (reply,) = control.ask(arguments, "TellClients", **filters.chosen(arguments))
    told: int = reply["told"]
    print(json.dumps(reply) if arguments.json else f"telling {plural(told, 'client')}")
    return 0 if told else NONE
