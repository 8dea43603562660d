"""The options of graced(8), read by the conventions of getopt_long(3), but never abbreviated.

A table and two loops, because argparse would take an eighth of the time to start.
"""

from __future__ import annotations

from graced.app.settings import CONFIG_FILE, LOG_LEVELS, PID_FILE
from graced.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any


class Option:
    """One option: its names, what it gives, and what the help says of it."""

    __slots__ = ("constant", "convert", "help", "key", "metavar", "names", "repeatable")

    def __init__(
        self,
        names: str,
        metavar: str,
        help: str,
        *,
        convert: Callable[[str], Any] = str,
        repeatable: bool = False,
        key: str = "",
        constant: Any = True,
    ) -> None:
        self.names = names.split()
        self.metavar = metavar
        """What the help calls the value; empty: a flag, which takes none."""
        self.help = help
        self.convert = convert
        """Turns a text into the value; raises `ValueError` saying what is needed."""
        self.repeatable = repeatable
        """Whether all values count, and not the last one only."""
        self.key = key or self.names[-1]
        """What it is called in the result."""
        self.constant = constant
        """What a flag gives."""

    def __str__(self) -> str:
        return ", ".join(f"{name} {self.metavar}".rstrip() for name in self.names)


def _number(text: str) -> float:
    """An integer where it is one, so that the settings quote it as it was typed."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"needs a number, not {text!r}") from None
    return int(value) if value.is_integer() else value


OPTIONS = (
    Option("-h --help", "", "show this help and exit"),
    Option("-c --config", "FILE", f"default: {CONFIG_FILE}"),
    Option(
        "-l --listen",
        "ADDRESS",
        "HOST:PORT, [::1]:PORT, *:PORT or unix:/PATH; repeatable;\nport 0 picks one",
        repeatable=True,
    ),
    Option(
        "-g --grace",
        "SECONDS",
        "time that clients have to leave, from the first signal on",
        convert=_number,
    ),
    Option("-d --daemon", "", "return when the daemon serves in the background"),
    Option("-p --pid-file", "PATH", f"default: {PID_FILE} with --daemon, else none"),
    Option("-H --handler", "NAME", "echo, echo-threaded, an entry point or package.module:Class"),
    Option("-t --check-config", "", "check the configuration and exit"),
    Option("--log-level", "LEVEL", ", ".join(LOG_LEVELS)),
    Option(
        "-v",
        "",
        "the same as --log-level debug: what clients send is logged, too",
        key="--log-level",
        constant="debug",
    ),
    Option("--version", "", "show the version and exit"),
)

_BY_NAME = {name: option for option in OPTIONS for name in option.names}


def parse(argv: Iterable[str]) -> dict[str, Any]:
    """Read a command line, without the name of the program.

    Returns the values of the options that are given, by their long names: True for a flag, and a
    list for what is repeatable.  Nothing is read after ``--help`` or ``--version``.
    Raises `UsageError`.
    """
    given: dict[str, Any] = {}
    for option, value in _occurrences(iter(argv)):
        if option.repeatable:
            given.setdefault(option.key, []).append(value)
        else:
            given[option.key] = value
        if option.key in {"--help", "--version"}:
            break
    return given


def _occurrences(words: Iterator[str]) -> Iterator[tuple[Option, Any]]:
    """The options in the order they are given, each with its value."""
    for word in words:
        if word == "--":
            break
        if word.startswith("--"):
            yield _long(word, words)
        elif word.startswith("-") and word != "-":
            yield from _short(word, words)
        else:
            raise _misuse(f"unexpected operand {word!r}")
    for operand in words:
        raise _misuse(f"unexpected operand {operand!r}")


def _long(word: str, words: Iterator[str]) -> tuple[Option, Any]:
    """``--daemon``, ``--config FILE`` or ``--config=FILE``."""
    name, equals, value = word.partition("=")
    option = _named(name)
    if option.metavar:
        return option, _value(option, name, value if equals else next(words, None))
    if equals:
        raise _misuse(f"option {name} takes no value")
    return option, option.constant


def _short(word: str, words: Iterator[str]) -> Iterator[tuple[Option, Any]]:
    """``-d``, ``-dv``, ``-c FILE``, ``-cFILE`` or ``-dcFILE``."""
    for end, letter in enumerate(word[1:], start=2):
        name = f"-{letter}"
        option = _named(name)
        if option.metavar:
            yield option, _value(option, name, word[end:] or next(words, None))
            return
        yield option, option.constant


def _named(name: str) -> Option:
    if name not in _BY_NAME:
        raise _misuse(f"unknown option {name}")
    return _BY_NAME[name]


def _value(option: Option, name: str, text: str | None) -> Any:
    if text is None:
        raise _misuse(f"option {name} needs a value: {option.metavar}")
    try:
        return option.convert(text)
    except ValueError as error:
        raise _misuse(f"option {name} {error}") from None


def _misuse(what: str) -> UsageError:
    return UsageError(f"{what} (see --help)")


def help_text() -> str:
    """What ``--help`` prints."""
    width = max(len(str(option)) for option in OPTIONS)
    rows = "\n".join(
        f"  {option!s:{width}}  {option.help}".replace("\n", f"\n{'':{width + 4}}")
        for option in OPTIONS
    )
    return f"""\
usage: graced [OPTION]...

An echo server (RFC 862) that says goodbye properly.

options:
{rows}

Signals: TERM, HUP, INT and QUIT stop it gracefully, USR1 logs its status."""
