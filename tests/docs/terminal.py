"""A terminal with a shell in it: types what a transcript shows, and compares what comes back.

The output has to be what the transcript shows, line by line, except for what differs each time:

==================  =========================================================================
in the transcript   stands for
==================  =========================================================================
``02:41:07.310``    any time of day
``pid 4711``        any process number; also after ``[``, as in ``graced[4711]``
``127.0.0.1``       the other address of localhost, ``[::1]``, too
``127.0.0.1:51234`` any port of five digits; in a command: the last address that was shown
``0.184``           any number with a decimal point
``213 ms``          any whole number of milliseconds
``...``             any text in a line; in a line of its own: any number of lines
==================  =========================================================================
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import select
import struct
import termios
from collections.abc import Callable, Sequence
from typing import NamedTuple

PATIENCE = 60.0
"""Seconds that no output takes, however busy the machine is."""
SHELL = ("bash", "--noprofile", "--norc", "--noediting", "-i")
PROMPTS = {"checkout": "$ ", "device": "# "}
SKIP = "..."
INTERRUPT = "^C"

_VARIES = (
    (r"\d\d:\d\d:\d\d(?:\\\.\d+)?", r"\d\d:\d\d:\d\d(?:\.\d+)?"),
    (r"pid\\ \d+", r"pid \d+"),
    (r"\\\[\d+\\\]", r"\[\d+\]"),
    (r"127\\\.0\\\.0\\\.1", r"(?:127\.0\.0\.1|\[::1\])"),
    (r":\d{5}\b", r":\d{5}"),
    (r"\d+\\\.\d+", r"\d+\.\d+"),
    (r"\b\d+\\ ms", r"\d+ ms"),
    (r"\\\.\\\.\\\.", r".*"),
)
_CLIENT = re.compile(r"(?:127\.0\.0\.1|\[::1\]):\d{5}\b")

Typist = Callable[[str, list[str]], str]
"""What is to be typed for a command of a transcript, of which the output is expected."""


class MismatchError(AssertionError):
    """The terminal shows something else than the transcript."""


def pattern(line: str) -> re.Pattern[str]:
    """What matches the same line of output at another time."""
    escaped = re.escape(line.rstrip())
    # All alternatives at once: what one has put in is not looked at by the next.
    either = re.compile("|".join(f"({varies})" for varies, _ in _VARIES))
    text = either.sub(lambda found: _VARIES[(found.lastindex or 1) - 1][1], escaped)
    return re.compile(text + r"\s*")


class Terminal:
    """The master's side of a pseudo-terminal whose other side a shell has."""

    def __init__(self, master: int, prompt: str) -> None:
        self._master = master
        self._prompt = prompt
        self._pending = ""
        self._skipping = True
        self._running = True
        """Whether a command has been typed that has not come back to the prompt."""
        self.shown = ""
        """All that has been shown so far."""
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 400, 0, 0))
        self._until_prompt()

    def follow(self, text: str, typist: Typist) -> None:
        """Do what a transcript says, from its first to its last line.  Raises `MismatchError`."""
        lines = text.splitlines()
        for number, line in enumerate(lines, 1):
            if line.startswith(self._prompt):
                self.finish()
                output = itertools.takewhile(lambda x: not self._is_typed(x), lines[number:])
                self._type(typist(line.removeprefix(self._prompt), list(output)))
            elif line.startswith(INTERRUPT):
                self._type_interrupt()
                self._expect(line)
            elif line == SKIP:
                self._skipping = True
            else:
                self._expect(line)

    def _is_typed(self, line: str) -> bool:
        return line.startswith((self._prompt, INTERRUPT))

    def interrupt(self) -> None:
        """End what runs, whatever it says about that."""
        self._skipping = True
        self._type_interrupt()

    def finish(self) -> None:
        """Wait for the prompt.  Raises `MismatchError` for output that the transcript has not."""
        if self._running:
            self._until_prompt()

    # Typing.

    def _type(self, command: str) -> None:
        os.write(self._master, f"{command}\n".encode())
        self._running, self._skipping = True, False
        # The terminal shows what was typed.
        echo = self._line()
        if echo.rstrip() != command:
            raise MismatchError(f"typed {command!r}, shown {echo!r}")

    def _type_interrupt(self) -> None:
        os.write(self._master, b"\x03")

    # Reading.

    def _expect(self, expected: str) -> None:
        wanted = pattern(expected)
        while True:
            line = self._line()
            if wanted.fullmatch(line):
                self._skipping = False
                return
            if not self._skipping:
                raise MismatchError(f"expected: {expected!r}\n     shown: {line!r}")

    def _until_prompt(self) -> None:
        """Wait for the end of the command; output that is not in the transcript is an error."""
        while self._pending != self._prompt:
            if "\n" in self._pending:
                line, _, self._pending = self._pending.partition("\n")
                if self._running and not self._skipping and line.strip():
                    raise MismatchError(f"expected: the end of the command\n   shown: {line!r}")
            elif not self._read():
                raise MismatchError(f"no prompt after {self._pending!r}")
        self._pending = ""
        self._running = self._skipping = False

    def _line(self) -> str:
        while "\n" not in self._pending:
            if not self._read():
                raise MismatchError(f"no whole line after {self._pending!r}")
        line, _, self._pending = self._pending.partition("\n")
        return line

    def _read(self) -> bool:
        """Read more; return whether there was any in time."""
        if not select.select([self._master], [], [], PATIENCE)[0]:
            return False
        try:
            text = os.read(self._master, 65536).decode(errors="replace").replace("\r", "")
        except OSError:
            # EIO: the shell is gone.
            return False
        self._pending += text
        self.shown += text
        return bool(text)


class Step(NamedTuple):
    """A part of a session."""

    name: str
    """For messages."""
    terminal: int
    """The number of the terminal, from 1 on."""
    text: str
    """The transcript."""
    interrupted: bool
    """Whether its last command has to be ended."""


def follow(
    masters: Sequence[int],
    prompt: str,
    steps: Sequence[Step],
    before: Callable[[str, list[str]], None] = lambda command, output: None,
) -> None:
    """Follow transcripts in terminals.

    `before` is called with each command before it is typed, and with the output that is expected.
    Raises `MismatchError` that names the step.
    """
    terminals = [Terminal(master, prompt) for master in masters]

    def with_last_client(text: str) -> str:
        shown = _CLIENT.findall("\n".join(terminal.shown for terminal in terminals))
        return _CLIENT.sub(shown[-1], text) if shown else text

    def typist(command: str, output: list[str]) -> str:
        before(command, output)
        return with_last_client(command)

    name = "the end of the session"
    try:
        for step in steps:
            name = step.name
            terminals[step.terminal - 1].follow(step.text, typist)
        name = "the end of the session"
        for step in steps:
            if step.interrupted:
                terminals[step.terminal - 1].interrupt()
        for terminal in terminals:
            terminal.finish()
    except MismatchError as error:
        shown = "\n".join(
            f"--- terminal {number}\n{terminal.shown}"
            for number, terminal in enumerate(terminals, 1)
        )
        raise MismatchError(f"{name}\n{error}\n{shown}") from None
