"""``gracectl clients``: the clients of a running service, as a table or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

from graced.ctl import control, filters, top, view
from graced.ctl.live import Feed, Look, Rates

COLUMNS = ("client", "phase", "age", "idle", "received", "sent", "unsent")


def add_command(commands: Any) -> None:
    """Add the command to the parser of gracectl(1)."""
    command = commands.add_parser(
        "clients",
        help="list the clients of a running service",
        description="List the clients of a running service: address, phase, age, how long idle,"
        " bytes received from and sent to each, and bytes it has not taken yet.",
        epilog=control.STATUSES,
    )
    command.set_defaults(run=run)
    command.add_argument(
        "--sort",
        metavar="COLUMN",
        choices=COLUMNS,
        default="client",
        help=f"one of {', '.join(COLUMNS)}; numbers with the largest first (default: %(default)s)",
    )
    command.add_argument(
        "--watch",
        action="store_true",
        help="list them anew each second: on a terminal in place, with the keys of gracectl top",
    )
    filters.add_options(command)
    control.add_options(command)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit status.

    Raises `UsageError`, `ControlError`, and `OSError` for its output.
    """
    with Feed(arguments, **filters.given(arguments)) as feed:
        if arguments.watch:
            return _watch(arguments, feed)
        found = feed.clients()
    view.sort(found, arguments.sort)
    for line in map(json.dumps, found) if arguments.json else view.table(found, COLUMNS):
        print(line)
    return 0


def _watch(arguments: argparse.Namespace, feed: Feed) -> int:
    """List the clients again and again, until a key or Ctrl-C."""

    def text(look: Look, _rates: Rates) -> str:
        view.sort(look.clients, arguments.sort)
        if arguments.json:
            return json.dumps({"clients": look.clients})
        return "\n".join([*view.table(look.clients, COLUMNS), ""])

    if arguments.json or not sys.stdout.isatty():
        top.print_looks(feed, text)
    # Here, as the other commands do without curses.
    from graced.ctl.screen import Screen  # noqa: PLC0415

    first = feed.look()
    with Screen() as screen:
        return top.show(screen, feed, view.View(COLUMNS, arguments.sort), _no_head, first)


def _no_head(_look: Look, _rates: Rates, _levels: str) -> Iterator[str]:
    """Nothing above the clients."""
    yield from ()
