"""The screen of a terminal: lines that are drawn anew, and the keys that are pressed."""

from __future__ import annotations

import curses
import locale
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from graced.ctl.graph import ASCII, BLOCKS
from graced.ctl.view import Line
from graced.errors import UsageError

_KEYS = {
    curses.KEY_UP: "up",
    curses.KEY_DOWN: "down",
    curses.KEY_PPAGE: "page up",
    curses.KEY_NPAGE: "page down",
    curses.KEY_LEFT: "left",
    curses.KEY_RIGHT: "right",
    curses.KEY_RESIZE: "resize",
}
_STYLES = {"": 0, "head": curses.A_REVERSE, "chosen": curses.A_BOLD | curses.A_UNDERLINE}


class Screen:
    """The terminal of standard output, as a context manager that restores it."""

    def __enter__(self) -> Screen:
        """Raises `UsageError` where there is no terminal that can be drawn on."""
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise UsageError("a live screen needs a terminal; --json does not")
        locale.setlocale(locale.LC_CTYPE, "")
        # A lone Esc is no key here: no wait of a second for what may follow.
        os.environ.setdefault("ESCDELAY", "25")
        try:
            self._window = curses.initscr()
        except curses.error as error:
            raise UsageError(f"the terminal cannot show a live screen: {error}") from None
        curses.noecho()
        curses.cbreak()
        self._window.keypad(True)
        with suppress(curses.error):
            # Not each terminal can hide its cursor.
            curses.curs_set(0)
        self.levels = BLOCKS if locale.nl_langinfo(locale.CODESET) == "UTF-8" else ASCII
        """The characters of a graph."""
        return self

    def __exit__(self, *_exception: object) -> None:
        curses.endwin()

    @property
    def size(self) -> tuple[int, int]:
        """Lines and columns."""
        return self._window.getmaxyx()

    def draw(self, lines: Sequence[Line]) -> None:
        """Show the lines, as far as there is room; what has not changed is not sent."""
        height, width = self.size
        self._window.erase()
        for number, line in enumerate(lines[:height]):
            style = _STYLES[line.style]
            text = line.text.ljust(width) if line.style == "head" else line.text
            with suppress(curses.error):
                # The last cell of the screen cannot be written without an error.
                self._window.addnstr(number, 0, text, width, style)
        self._window.refresh()

    def key(self, seconds: float) -> str:
        """Wait for a key for so long and return its name; empty: none was pressed."""
        self._window.timeout(max(0, round(1000 * seconds)))
        code = self._window.getch()
        if code in _KEYS:
            return _KEYS[code]
        return chr(code) if 0 <= code < 128 else ""
