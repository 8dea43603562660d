"""``gracectl top``, and the screen of ``gracectl clients --watch``."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from graced.ctl import control, filters
from graced.ctl.control import ControlError
from graced.ctl.graph import graph
from graced.ctl.live import INTERVAL, Feed, Look, Rates
from graced.ctl.units import duration, size
from graced.ctl.view import Line, View

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.ctl.screen import Screen

SORTS = ("client", "phase", "age", "idle", "in", "out", "unsent")
"""The columns."""
_GRAPH = 20
"""Columns of a graph."""

Head = Callable[[Look, Rates, str], Iterator[str]]


def add_command(commands: Any) -> None:
    """Add the command to the parser of gracectl(1)."""
    command = commands.add_parser(
        "top",
        help="show a running service and its clients, anew each second",
        description="Show a running service and its clients on a live screen: their rates, which"
        " of them take or send most; sort them, tell or close one by a key.",
        epilog=control.STATUSES,
    )
    command.set_defaults(run=run)
    command.add_argument(
        "--sort",
        metavar="COLUMN",
        choices=SORTS,
        default="out",
        help=f"one of {', '.join(SORTS)} (default: %(default)s)",
    )
    filters.add_options(command)
    control.add_options(command)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit status.

    Raises `UsageError`, `ControlError`, and `OSError` for its output.
    """
    with Feed(arguments, **filters.given(arguments)) as feed:
        if arguments.json:
            print_looks(feed, as_json)
        # Here, as the other commands do without curses.
        from graced.ctl.screen import Screen  # noqa: PLC0415

        # Before the screen: why a service does not answer stays on the terminal.
        first = feed.look()
        with Screen() as screen:
            return show(screen, feed, View(SORTS, arguments.sort), head_of, first)


def as_json(look: Look, rates: Rates) -> str:
    """A look as a line for programs."""
    found = {name: rates.last(name) for name in rates.history}
    return json.dumps({"status": look.status, "rates": found, "clients": look.clients})


def print_looks(feed: Feed, text: Callable[[Look, Rates], str]) -> NoReturn:
    """Print each look, until Ctrl-C.  Raises `ControlError`; `OSError` for the output."""
    rates = Rates()
    due = time.monotonic()
    while True:
        look = feed.look()
        rates.add(look)
        print(text(look, rates), flush=True)
        due = max(due + INTERVAL, time.monotonic())
        time.sleep(due - time.monotonic())


def head_of(look: Look, rates: Rates, levels: str) -> Iterator[str]:
    """The lines above the clients."""
    status = look.status
    state = status["state"].replace("_", " ")
    yield (
        f"{status['name']} {status['version']}, pid {status['pid']}, {state} for"
        f" {duration(status['uptime'])}, handler {status['handler']}"
    )
    limits = (f"{each['name']} {each['now']} of {each['most']}" for each in status["limits"])
    waiting = f", {status['waiting']} waiting" if status["waiting"] else ""
    yield f"clients {status['clients']}{waiting}; {', '.join(limits)}"
    for name, unit in (("new", "/s"), ("refused", "/s"), ("sent", "B/s")):
        last = rates.last(name)
        number = size(None if last is None else round(last))
        yield f"{name:8}{number + unit:>9} {graph(rates.history[name], _GRAPH, levels)}"


def show(screen: Screen, feed: Feed, view: View, head: Head, first: Look) -> int:
    """Look and draw until the operator quits; return the exit status."""
    rates, look = Rates(), first
    done = trouble = ""
    rates.add(look)
    view.update(look.clients)
    due = time.monotonic() + INTERVAL
    while True:
        screen.draw(_lines(screen, view, [*head(look, rates, screen.levels)], trouble or done))
        key = screen.key(due - time.monotonic())
        if key == "q":
            return 0
        if key:
            order = view.press(key)
            done = _carry_out(feed, order, view.chosen) if order else ""
        if time.monotonic() < due:
            continue
        due = max(due + INTERVAL, time.monotonic())
        try:
            look = feed.look()
        except ControlError as error:
            trouble = str(error)
        else:
            trouble = ""
            rates.add(look)
            view.update(look.clients)


def _lines(screen: Screen, view: View, head: list[str], message: str) -> list[Line]:
    height, _ = screen.size
    last = view.keys if view.asks else message or view.keys
    body = view.lines(height - len(head) - 1)
    lines = [Line(text) for text in head] + body
    return [*lines[: height - 1], *([Line("")] * (height - 1 - len(lines))), Line(last)]


def _carry_out(feed: Feed, order: str, client: str) -> str:
    """Tell or close a client; return what has happened."""
    method = {"tell": "TellClients", "close": "CloseClients"}[order]
    try:
        (reply,) = feed.ask(method, client=client)
    except ControlError as error:
        return str(error)
    (number,) = reply.values()
    done = {"tell": "telling", "close": "closed"}[order]
    return f"{done} {client}" if number else f"{client}: nothing to {order}"
