"""A view of the clients: which of them a screen shows, in which order, and what a key does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from graced.ctl.units import duration, size

TEXTS = {"client", "phase"}
"""The columns that are sorted by their text; the others have numbers, the largest first."""
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_WIDTHS = {"client": 21, "phase": 8}
"""Columns, at least, so that a table does not move at each look; of all others `_WIDTH`."""
_WIDTH = 7


class Column(NamedTuple):
    """A column of a table."""

    title: str
    show: Callable[[Any], str]
    """The text of a value."""
    key: str
    """Of the row."""


class Line(NamedTuple):
    """A line of a screen."""

    text: str
    style: str = ""
    """``head``, ``chosen`` or none."""


def printable(value: Any) -> str:
    """The text of a value, in which nothing speaks to the terminal."""
    return str(value).translate(_CONTROL)


def rate(value: float | None) -> str:
    """A number of bytes in a second; "-": unknown."""
    return size(None if value is None else round(value))


COLUMNS = {
    "client": Column("CLIENT", printable, "client"),
    "phase": Column("PHASE", printable, "phase"),
    "age": Column("AGE", duration, "age"),
    "idle": Column("IDLE", duration, "idle"),
    "received": Column("RECEIVED", size, "received"),
    "sent": Column("SENT", size, "sent"),
    "unsent": Column("UNSENT", size, "unsent"),
    "in": Column("IN/S", rate, "receivedRate"),
    "out": Column("OUT/S", rate, "sentRate"),
}
"""All columns, by the names in which they are asked for."""


def sort(rows: list[dict[str, Any]], column: str) -> None:
    """Sort clients: text as usual, numbers with the largest first, unknown ones at the end."""
    key = COLUMNS[column].key
    if column in TEXTS:
        rows.sort(key=lambda row: row[key])
    else:
        # Names as well: equal numbers do not change places at each look.
        rows.sort(key=lambda row: (1 if row[key] is None else -row[key], row["client"]))


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str], least: int = 0) -> Iterator[str]:
    """Yield the clients as lines below a head.

    `least`: columns of the terminal for each number at least; 0: no more than needed.
    """
    shown = [COLUMNS[name] for name in columns]
    lines = [[column.title for column in shown]]
    lines += [[column.show(row[column.key]) for column in shown] for row in rows]
    widths = [
        max(map(len, cells), default=0) if not least else max(*map(len, cells), _least(name, least))
        for name, cells in zip(columns, zip(*lines, strict=True), strict=True)
    ]
    for line in lines:
        yield "  ".join(
            cell.ljust(width) if name in TEXTS else cell.rjust(width)
            for name, cell, width in zip(columns, line, widths, strict=True)
        ).rstrip()


def _least(name: str, least: int) -> int:
    return _WIDTHS.get(name, least)


class View:
    """The table of a screen, with the client that is chosen."""

    def __init__(self, columns: Sequence[str], sort_by: str) -> None:
        self.columns = columns
        self.sort_by = sort_by
        self.chosen = ""
        """The name of the client that is chosen; empty: none."""
        self.asks = ""
        """``tell`` or ``close`` while the operator is asked whether that is meant."""
        self._rows: list[dict[str, Any]] = []
        self._first = 0
        self._height = 1

    def update(self, rows: list[dict[str, Any]]) -> None:
        """Show these clients from now on."""
        self._rows = rows
        sort(rows, self.sort_by)

    def lines(self, height: int) -> list[Line]:
        """So many lines at most: a head, and the clients around the choice."""
        self._height = max(1, height - 1)
        place = self._place()
        if place is not None:
            self._first = min(max(self._first, place - self._height + 1), place)
        self._first = max(0, min(self._first, len(self._rows) - self._height))
        shown = self._rows[self._first : self._first + self._height]
        head, *lines = table(shown, self.columns, _WIDTH)
        styles = ["chosen" if row["client"] == self.chosen else "" for row in shown]
        return [Line(head, "head"), *map(Line, lines, styles)]

    @property
    def keys(self) -> str:
        """What the keys do."""
        if self.asks:
            return f"{self.asks} {printable(self.chosen)}? y: yes, other keys: no"
        title = COLUMNS[self.sort_by].title
        return f"q quit  up/down choose  left/right sort, now by {title}  t tell  c close"

    def _place(self) -> int | None:
        """The number of the chosen client among all; None where it has gone."""
        names = (place for place, row in enumerate(self._rows) if row["client"] == self.chosen)
        return next(names, None)

    def press(self, key: str) -> str:
        """Do what a key says; return ``tell`` or ``close`` if the chosen client shall be."""
        if self.asks:
            order, self.asks = self.asks, ""
            return order if key == "y" else ""
        if step := {
            "up": -1,
            "down": 1,
            "page up": -self._height,
            "page down": self._height,
        }.get(key):
            self._choose(step)
        elif step := {"left": -1, "right": 1}.get(key):
            place = self.columns.index(self.sort_by) + step
            self.sort_by = self.columns[place % len(self.columns)]
            sort(self._rows, self.sort_by)
        elif key in {"t", "c"} and self._place() is not None:
            self.asks = {"t": "tell", "c": "close"}[key]
        return ""

    def _choose(self, step: int) -> None:
        if not self._rows:
            return
        place = self._place()
        # The first press chooses what is at the top.
        place = self._first if place is None else place + step
        self.chosen = self._rows[min(max(place, 0), len(self._rows) - 1)]["client"]
