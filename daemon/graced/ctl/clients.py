"""``gracectl clients``: the clients of a running service, as a table or as JSON."""

from __future__ import annotations

import argparse
import json
from typing import Any

from graced.ctl import control, filters
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
    filters.add_options(command)
    control.add_options(command)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit status.  Raises `ControlError`; `OSError` for output."""
    found: list[dict[str, Any]] = []
    for reply in control.ask(arguments, "ListClients", **filters.given(arguments)):
        found += reply["clients"]
    found.sort(key=lambda row: _place(row, arguments.sort))
    if arguments.json:
        for row in found:
            print(json.dumps(row))
    else:
        print(table(found))
    return 0


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
