"""``gracectl status``: the state of a running service."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

from graced.ctl import control
from graced.ctl.units import duration, size
from graced.log.event import plural

SHOWN = 5
"""Clients that a drain waits for, and that are named."""
_LABEL = 10
_PERCENT = 100


def add_command(commands: Any) -> None:
    """Add the command to the parser of gracectl(1)."""
    command = commands.add_parser(
        "status",
        help="show the state of a running service",
        description="Show the state of a running service: since when it runs, its listeners and"
        " clients, how near its limits are, what it has lost of its log, the last handover, and"
        " what a drain waits for.",
        epilog=control.STATUSES,
    )
    command.set_defaults(run=run)
    control.add_options(command)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit status.  Raises `ControlError`; `OSError` for output."""
    (found,) = control.ask(arguments, "Status")
    remaining = None
    if found["drain"]:
        remaining = [
            row for reply in control.ask(arguments, "ListClients") for row in reply["clients"]
        ]
    if arguments.json:
        if remaining is not None:
            found["drain"]["remaining"] = remaining
        print(json.dumps(found))
    else:
        for label, text in lines(found, remaining or []):
            print(f"{label + ':' if label else '':{_LABEL}} {text}".rstrip())
    return 0


def lines(found: dict[str, Any], remaining: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield the lines for people, each with its label; `remaining`: clients, in a drain."""
    since = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(found["since"]))
    yield "service", f"{found['name']} {found['version']}, pid {found['pid']}"
    state = found["state"].replace("_", " ")
    yield "state", f"{state}, since {since}, {duration(found['uptime'])} ago"
    yield "handler", found["handler"]
    yield "listeners", ", ".join(found["listeners"]) or "none"
    if found["missing"]:
        yield "missing", found["missing"]
    probes = f" ({found['probes']} without a byte)" if found["probes"] else ""
    waiting = f", {found['waiting']} waiting for a thread" if found["waiting"] else ""
    yield "clients", f"{found['clients']} now, {found['admitted']} so far{probes}{waiting}"
    if found["refused"]:
        by_reason = (f"{each['clients']} by {each['reason']}" for each in found["refused"])
        yield "refused", ", ".join(by_reason)
    yield "sent", f"{size(found['sent'])}B"
    for number, limit in enumerate(found["limits"]):
        share = _PERCENT * limit["now"] // limit["most"]
        text = f"{limit['name']}: {limit['now']} of {limit['most']} ({share}%)"
        yield "" if number else "limits", text
    losses = _losses(found["logDropped"], found["logSuppressed"])
    yield "log", f"level {found['logLevel']}, {losses}"
    yield "handover", _handover(found["inherited"])
    if drain := found["drain"]:
        departed = plural(drain["departed"], "client")
        yield "drain", f"{drain['secondsLeft']:.0f} s to go, {departed} departed"
        for row in remaining[:SHOWN]:
            yield "", f"waits for {row['client']}: {row['phase']}, idle {duration(row['idle'])}"
        if len(remaining) > SHOWN:
            yield "", f"and for {len(remaining) - SHOWN} more"


def _losses(dropped: int, suppressed: int) -> str:
    if not (dropped or suppressed):
        return "nothing lost"
    return f"{plural(dropped, 'record')} dropped, {suppressed} suppressed"


def _handover(inherited: dict[str, Any] | None) -> str:
    if not inherited:
        return "no client was inherited"
    clients, milliseconds = plural(inherited["clients"], "client"), inherited["milliseconds"]
    how = "after a crash" if milliseconds is None else f"unserved for {milliseconds} ms"
    return f"{clients} inherited, {how}"
