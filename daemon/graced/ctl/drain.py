"""``gracectl drain``: stop a running service, and show how far the drain has come."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from graced.ctl import control
from graced.log.event import plural

SOME_CLOSED = 1
"""The exit status where clients were closed at the deadline."""
_BAR = 20
"""Columns."""


def add_command(commands: Any) -> None:
    """Add the command to the parser of gracectl(1)."""
    command = commands.add_parser(
        "drain",
        help="stop a running service, and wait until its clients have gone",
        description="Stop a running service as SIGTERM does, without a lame duck: clients are told,"
        " and have the grace period. Show how many remain, and wait for the end. For root and the"
        " user of the service.",
        epilog=control.STATUSES.replace(
            "0 success", "0 all clients departed, 1 some were closed at the deadline", 1
        ),
    )
    command.set_defaults(run=run)
    control.add_options(command)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit status.  Raises `ControlError`; `OSError` for output."""
    live = sys.stdout.isatty() and not arguments.json
    longest = 0
    found: dict[str, Any] = {}
    most = 1
    for found in control.ask(arguments, "Drain"):
        most = max(most, found["clients"])
        if arguments.json:
            print(json.dumps(found), flush=True)
        elif not live:
            print(line(found), flush=True)
        else:
            text = f"{bar(found['clients'], most)} {line(found)}"
            longest = max(longest, len(text))
            print(f"\r{text:{longest}}", end="", flush=True)
    if live:
        print()
    return SOME_CLOSED if found["closed"] else 0


def line(found: dict[str, Any]) -> str:
    """How far the drain has come."""
    departed = f"{plural(found['departed'], 'client')} departed"
    if found["ended"]:
        return f"stopped: {departed}, {found['closed']} closed at the deadline"
    remaining = f"{plural(found['clients'], 'client')} remaining"
    if found["secondsLeft"] is None:
        return f"stopping: {remaining}"
    return f"draining: {remaining}, {found['secondsLeft']:.0f} s to go, {departed}"


def bar(clients: int, most: int) -> str:
    """The part of the clients that has gone."""
    gone = _BAR - _BAR * clients // most
    return f"[{'#' * gone}{'-' * (_BAR - gone)}]"
