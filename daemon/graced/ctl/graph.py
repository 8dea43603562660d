"""Small graphs: a line of text in which each column is a number."""

from __future__ import annotations

from collections.abc import Sequence

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII = " .:-=+*#@"
"""For a terminal that shows no blocks."""


def graph(numbers: Sequence[float], width: int, levels: str = BLOCKS) -> str:
    """The last `width` numbers, on a scale from 0 to the largest; `levels`: from 0 to that."""
    shown = list(numbers)[-width:]
    top = max(shown, default=0.0)
    steps = len(levels) - 1
    # The smallest number that is not 0 can be seen.
    columns = [0 if number <= 0 else max(1, round(steps * number / top)) for number in shown]
    return "".join(levels[column] for column in columns).rjust(width)
