r"""The commands, files and outputs that README, docs and man pages show.

In Markdown a comment before a fenced block says where the block runs, in a man page a comment
before a literal display::

    <!-- runs: checkout -->             .\" runs: device, terminal 2
    ```console                          .Bd -literal -offset indent
    $ make run                          # systemctl stop graced
    ```                                 .Ed

``checkout``
    An ordinary directory of files as git has them, with a network of its own.
``device``
    A booted Debian with the packages installed, as root.
``checkout, terminal 2``
    In another terminal of the same session.
``checkout, until Ctrl-C``
    The last command does not end by itself; the test ends it, and its last words do not matter.
``<!-- no test: REASON -->``, instead of ``runs``
    Not run: commands that run the tests themselves, or take longer than all of the tests.

All blocks under one heading are one *session*: same place, same directory, same terminals.  A block
that begins with output or with ``^C`` goes on where the last block of its terminal ended.

``<!-- file: shout.py -->`` before a block makes it a file: where the name is relative, in the
directory of every session of the page; where it is absolute, on the device, for the session under
the same heading.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from docs import CHECKOUT
from docs.terminal import Step

PAGES = sorted(
    [
        *CHECKOUT.glob("*.md"),
        *CHECKOUT.glob("docs/*.md"),
        *CHECKOUT.glob("docs/fleet/*.md"),
        *CHECKOUT.glob("packaging/man/*.[0-9]"),
    ]
)
CHECKOUT_PLACE = "checkout"
DEVICE_PLACE = "device"
UNTIL_INTERRUPT = "until Ctrl-C"

_MARKER = re.compile(r'^(?:<!-- |\.\\" )(runs|file|no test): (.*?)(?: -->)?$')
_HEADING = re.compile(r"^(?:#+ |\.S[hs] )(.*)$")
_MDOC = (
    (r"\(dq", '"'),
    (r"\(aq", "'"),
    (r"\-", "-"),
    (r"\&", ""),
    (r"\e", "\\"),
)


class Block(NamedTuple):
    """A fenced block or a literal display."""

    page: Path
    line: int
    """The number of its first line in the page."""
    heading: str
    language: str
    marker: str
    """What the comment before it says, such as ``runs: checkout``; empty: there is none."""
    text: str

    @property
    def name(self) -> str:
        """For messages: the page and the line."""
        return f"{self.page.relative_to(CHECKOUT)}:{self.line}"

    @property
    def place(self) -> str:
        """Where it runs; empty: it is no session."""
        return self._options[0]

    @property
    def terminal(self) -> int:
        """The number of its terminal."""
        return next((int(o.split()[1]) for o in self._options if o.startswith("terminal ")), 1)

    @property
    def interrupted(self) -> bool:
        """Whether the test has to end its last command."""
        return UNTIL_INTERRUPT in self._options

    @property
    def _options(self) -> list[str]:
        kind, _, rest = self.marker.partition(": ")
        return rest.split(", ") if kind == "runs" else [""]

    @property
    def file(self) -> str:
        """The file that it is; empty: it is none."""
        kind, _, rest = self.marker.partition(": ")
        return rest if kind == "file" else ""

    @property
    def commands(self) -> list[str]:
        """The commands in it, without their prompts."""
        return [line[2:] for line in self.text.splitlines() if line.startswith(("$ ", "# "))]


class Session(NamedTuple):
    """What is typed under one heading, in one place."""

    page: Path
    heading: str
    place: str
    blocks: list[Block]
    files: list[Block]

    @property
    def name(self) -> str:
        """For the name of a test."""
        return f"{self.page.name}-{self.heading}".replace(" ", "-")

    @property
    def terminals(self) -> int:
        """How many there are."""
        return max(block.terminal for block in self.blocks)

    def steps(self) -> list[Step]:
        """What is to be followed, in order."""
        return [Step(b.name, b.terminal, b.text, b.interrupted) for b in self.blocks]


def blocks(page: Path) -> list[Block]:
    """All blocks of a page."""
    return list(_blocks(page))


def _blocks(page: Path) -> Iterator[Block]:
    is_manual = page.suffix != ".md"
    begin = re.compile(r"^\.Bd -literal.*$" if is_manual else r"^( *)```(\w*)$")
    heading = marker = language = ""
    inside: list[str] | None = None
    start = 0
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if inside is not None:
            if line.strip() == (".Ed" if is_manual else "```"):
                text = "\n".join(inside)
                if is_manual:
                    text = _plain(text)
                yield Block(page, start, heading, language, marker, text)
                inside, marker = None, ""
            else:
                inside.append(line)
        elif found := begin.match(line):
            inside, start = [], number + 1
            language = "" if is_manual else found[2]
        elif found := _MARKER.match(line):
            marker = f"{found[1]}: {found[2]}"
        elif found := _HEADING.match(line):
            heading = found[1].strip('"')
    assert inside is None, f"{page.name}: a block does not end"


def _plain(text: str) -> str:
    """What a reader of a man page sees of a literal display."""
    for escape, character in _MDOC:
        text = text.replace(escape, character)
    return text


def sessions(place: str) -> list[Session]:
    """All sessions of all pages that run in that place."""
    found: list[Session] = []
    for page in PAGES:
        all_blocks = blocks(page)
        for block in all_blocks:
            if block.place != place:
                continue
            if not (found and (found[-1].page, found[-1].heading) == (page, block.heading)):
                files = [b for b in all_blocks if b.file]
                theirs = [b for b in files if b.heading == block.heading or b.file[0] != "/"]
                found.append(Session(page, block.heading, place, [], theirs))
            found[-1].blocks.append(block)
    return found
