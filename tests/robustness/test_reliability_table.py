"""docs/reliability.md has each system call of a daemon's life, and its tables name tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from robustness.lifetime import Lifetime
from robustness.strace import TracedDaemon
from support import CHECKOUT
from support.process import TESTS

TABLE = CHECKOUT / "docs" / "reliability.md"
WITH_OPTION = {"setsockopt": 3, "getsockopt": 3, "ioctl": 2, "fcntl": 2}
"""Calls that are one thing or another, and which argument says so."""


def _rows(heading: str = "System calls") -> list[list[str]]:
    _, _, rest = TABLE.read_text().partition(f"\n## {heading}\n")
    section, _, _ = rest.partition("\n## ")
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("| ")
    ]


def _named() -> set[str]:
    """The calls of the first column, some with their option."""
    found = set()
    for row in _rows():
        call, *others = re.findall(r"`(\w+)`", row[0]) or [""]
        found |= {f"{call} {other}" for other in others} if call in WITH_OPTION else {call, *others}
    return found


def _call(line: str) -> str:
    """The call of a line of strace's, with its option; empty: there is none."""
    match = re.match(r"\d+ +(\w+)\((.*)", line)
    if not match:
        return ""
    call, arguments = match.groups()
    if call not in WITH_OPTION:
        return call
    position = WITH_OPTION[call]
    words = re.findall(r"\b[A-Z][A-Z0-9_]+", arguments.split(", ", position - 1)[-1])
    return f"{call} {re.sub('_(OLD|NEW)$', '', words[0]) if words else arguments[:40]}"


@pytest.mark.needs("strace")
@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
def test_table_has_each_call_of_life(handler: str, tmp_path: Path) -> None:
    life = Lifetime(handler, tmp_path, TracedDaemon)
    life.run()
    calls = {
        _call(line)
        for daemon in life.daemons
        if isinstance(daemon, TracedDaemon)
        for line in daemon.calls
    } - {""}
    assert len(calls) > 80
    assert sorted(calls - _named()) == []


@pytest.mark.parametrize(("heading", "least"), [("System calls", 20), ("Tried in the field", 10)])
def test_table_names_tests_that_exist(heading: str, least: int) -> None:
    rows = _rows(heading)
    named = {name for row in rows for name in re.findall(r"`([\w/]+\.py[:\w]*)`", row[-1])}
    assert len(named) > least
    missing = []
    for name in named:
        file, _, function = name.partition("::")
        if not re.search(rf"^def {function}\(" if function else "", _text(file), re.M):
            missing.append(name)
    assert not missing


def _text(file: str) -> str:
    """As the page says: those without a directory are from here."""
    return (TESTS / file if "/" in file else Path(__file__).with_name(file)).read_text()
