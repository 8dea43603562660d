"""docs/socketserver.md: complete, and each row has its test."""

from __future__ import annotations

import re
import socketserver
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[3] / "docs" / "socketserver.md").read_text()
ROWS = re.findall(r"^\| (?P<subject>.+?) \|.*\| (?P<tests>`test_.+) \|$", TEXT, re.M)
TESTS = {
    name
    for path in Path(__file__).parent.glob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
}
INTERFACE = {name for name in vars(socketserver.BaseServer) if not name.startswith("_")} | {
    name for name in dir(socketserver.ThreadingTCPServer) if not name.startswith("_")
}


@pytest.mark.parametrize(("subject", "tests"), ROWS, ids=[subject for subject, _ in ROWS])
def test_row_has_its_test(subject: str, tests: str) -> None:
    names = re.findall(r"`(\w+)`", tests)
    assert names, subject
    assert set(names) <= TESTS


def test_every_row_is_looked_at() -> None:
    headers = len(re.findall(r"^\| \| socketserver \|", TEXT, re.M))
    tables = TEXT[TEXT.index("| | socketserver |") :]
    assert len(ROWS) == len(re.findall(r"^\| [^-]", tables, re.M)) - headers


@pytest.mark.parametrize("name", sorted(INTERFACE))
def test_interface_of_socketserver_is_in_the_table(name: str) -> None:
    assert re.search(rf"`[\w.()]*\b{name}\b", TEXT)
