"""``gracectl log-level``: show or set the log level of a running service."""

from __future__ import annotations

import argparse
import json
from typing import Any

from graced.control.log_level import NAMES
from graced.ctl import control


def add_command(commands: Any) -> None:
    """Add the command to the parser of gracectl(1)."""
    command = commands.add_parser(
        "log-level",
        help="set what a running service logs, until its next start",
        description="Set the level from which on a running service logs, until its next start:"
        " restarts included, which read the configuration. Without LEVEL, print it. Only root and"
        " the user of the service may set it.",
        epilog=control.STATUSES,
    )
    command.set_defaults(run=run)
    command.add_argument("level", metavar="LEVEL", nargs="?", choices=NAMES, help=", ".join(NAMES))
    control.add_options(command)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit status.  Raises `ControlError`; `OSError` for output."""
    level = arguments.level
    if level:
        (reply,) = control.ask(arguments, "SetLogLevel", level=level)
        before = reply["before"]
        if not arguments.json:
            print(f"log level {level}, before: {before}")
    else:
        (status,) = control.ask(arguments, "Status")
        level = before = status["logLevel"]
        if not arguments.json:
            print(level)
    if arguments.json:
        print(json.dumps({"level": level, "before": before}))
    return 0
