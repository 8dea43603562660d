"""``gracectl clients``: the clients of a running service, as a table or as JSON."""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from math import inf
from typing import Any

from graced.ctl import control
from graced.ctl.units import duration, size

COLUMNS = ("client", "phase", "age", "idle", "received", "sent", "unsent")
_TEXTS = {"client", "phase"}
_SIZES = {"received", "sent", "unsent"}
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}


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
        "--host", metavar="NET", help="only those of an address, or of a network as 192.0.2.0/24"
    )
    command.add_argument("--phase", metavar="PHASE", help="only those in this phase")
    command.add_argument(
        "--idle", metavar="SECONDS", type=_seconds, help="only those without a byte for so long"
    )
    control.add_options(command)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit status.  Raises `ControlError`; `OSError` for output."""
    found: list[dict[str, Any]] = []
    filters = {name: getattr(arguments, name) for name in ("host", "phase", "idle")}
    given = {name: value for name, value in filters.items() if value is not None}
    for reply in control.ask(arguments, "ListClients", **given):
        found += reply["clients"]
    found.sort(key=lambda row: _place(row, arguments.sort))
    if arguments.json:
        for row in found:
            print(json.dumps(row))
    else:
        print(table(found))
    return 0


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (number := float(text)) < inf:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")


def _place(row: dict[str, Any], column: str) -> Any:
    value = row[column]
    return value if column in _TEXTS else -(-1 if value is None else value)


def table(rows: list[dict[str, Any]]) -> str:
    """The clients as lines below a head."""
    lines = [[name.upper() for name in COLUMNS]]
    lines += [[_cell(row, name) for name in COLUMNS] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if name in _TEXTS else cell.rjust(width)
            for name, cell, width in zip(COLUMNS, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(row: dict[str, Any], name: str) -> str:
    value = row[name]
    if name in _SIZES:
        return size(value)
    return str(value).translate(_CONTROL) if name in _TEXTS else duration(value)
