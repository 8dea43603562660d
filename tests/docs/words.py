"""`make check`: no word of the glossary's column "not" is used for what it does not mean.

    words.py        prints each such word with its place, and fails if there is one

Some of these words have a second, ordinary meaning ("the port number", "keep = 'always'"), so each
has an expression that finds the wrong meaning only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parents[2]
GLOSSARY = CHECKOUT / "docs" / "glossary.md"

_MANY = r"(its |the |their |those |all |some |new |of |%\(\w+\)d |\d+ |@GRACED_CLIENTS@ )*"
_GONE = r"(clients?|(client|one|who|that) (has|have|had)|who(ever)? (is|are)|clients are)"
_WHAT = r"(clients?|listeners?|listening sockets?|connections?)\b"

WRONG = {
    "port": r"\b(first|our|several|listening) ports?\b",
    "door": r"\bdoors?\b",
    "conversation": r"\bconversations?\b",
    "visit": r"\bvisit(s|ed)?\b",
    "manners": r"\bmanners\b",
    "owed": r"\bow(e|es|ed|ing)\b",
    "left": rf"\b{_GONE} left\b"
    r"|\bleft (by themselves|by the last|to the next|to us|to you|a drain)\b",
    "hand on": r"\bhand(s|ed|ing)? on\b",
    "leave": rf"\bleav(e|es|ing) {_MANY}{_WHAT}(?! alone)"
    r"|\bleav(e|es|ing) (to|for) the next\b",
    "carry": r"\bcarr(y|ies|ied|ying)\b(?! out\b)",
    "keep": rf"\bke(ep|eps|pt|eping) {_MANY}{_WHAT}(?! waiting)",
    "parcel": r"\bparcels?\b",
    "keeper": r"\bkeepers?\b",
    "legacy": r"\blegacy\b",
    "passed": r"\bpassed (on|over|down|to the next)\b",
}
"""By word of the column."""


class Allowed(NamedTuple):
    """A wrong word that stays, and why."""

    files: str
    """A pattern of paths."""
    text: str
    """An expression for the part of the line that may have it."""
    reason: str


ALLOWED = (
    Allowed("docs/glossary.md", r"^\|.*\|$", "the glossary names the words"),
    Allowed("CHANGELOG.md", r"in the manner of", "an ordinary word"),
    Allowed("*", r"GRACED_CLIENTS_LEFT|clients_left|clients_gone", "a field of the journal"),
)

PENDING: frozenset[tuple[str, str]] = frozenset()
"""Files with words that are still to be replaced."""

FILES = (
    "daemon/graced/**/*.py",
    "*.md",
    "docs/*.md",
    "packaging/man/*.[0-9]",
    "systemd/*",
    "etc/*",
    "Makefile",
)


class Found(NamedTuple):
    """A wrong word."""

    path: str
    line: int
    word: str
    text: str


def files() -> list[Path]:
    """The files to be searched, by the patterns of `FILES`."""
    return sorted(path for pattern in FILES for path in CHECKOUT.glob(pattern))


def search(path: Path) -> Iterator[Found]:
    """The wrong words of a file, without the exceptions."""
    name = str(path.relative_to(CHECKOUT))
    exceptions = [re.compile(e.text) for e in ALLOWED if fnmatch(name, e.files)]
    for number, line in enumerate(path.read_text().splitlines(), 1):
        rest = line
        for exception in exceptions:
            rest = exception.sub("", rest)
        for word, wrong in WRONG.items():
            found = re.search(wrong, rest, re.IGNORECASE)
            if found and (name, word) not in PENDING:
                yield Found(name, number, word, found[0])


def main() -> int:
    found = [each for path in files() for each in search(path)]
    for each in found:
        print(f"{each.path}:{each.line}: {each.text!r} is no word of the glossary ({each.word})")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
