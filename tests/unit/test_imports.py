"""The imports of daemon/graced go one way: as docs/architecture.md says, and in no circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGE = CHECKOUT / "daemon" / "graced"
LONGEST = 400
"""Lines of a file."""

SOURCES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
"""By name of the module; that of a package ends in ``.__init__``."""


def imported(name: str) -> Iterator[str]:
    """The modules of graced that a module imports; in functions and for type checkers too."""
    for node in ast.walk(ast.parse(SOURCES[name].read_text())):
        if isinstance(node, ast.Import):
            yield from (_module(alias.name) for alias in node.names if _is_ours(alias.name))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            if node.module and _is_ours(node.module):
                yield from (_module(node.module, alias.name) for alias in node.names)


def _is_ours(name: str) -> bool:
    return name.split(".", maxsplit=1)[0] == "graced"


def _module(name: str, attribute: str = "") -> str:
    """The key in `SOURCES`; the attribute of a module is no module."""
    for candidate in (f"{name}.{attribute}", f"{name}.{attribute}.__init__", name):
        if candidate in SOURCES:
            return candidate
    return f"{name}.__init__"


IMPORTS = {name: set(imported(name)) - {name} for name in SOURCES}


def wing(name: str) -> str:
    return name.split(".")[1]


def documented() -> dict[str, set[str]]:
    """The table of wings in docs/architecture.md, in its order."""
    text = (CHECKOUT / "docs" / "architecture.md").read_text()
    section = re.findall(r"^## Wings\n(.*?)^## ", text, re.M | re.S)[0]
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", section, re.M)
    return {name: set(re.findall(r"\w+", row.replace("\\", ""))) for name, row in rows}


def test_each_wing_is_documented() -> None:
    assert {wing(name) for name in SOURCES} == set(documented())


def test_imports_between_wings_are_the_documented_ones() -> None:
    used: dict[str, set[str]] = {name: set() for name in documented()}
    for name, targets in IMPORTS.items():
        used[wing(name)] |= {wing(target) for target in targets} - {wing(name)}
    assert used == documented()


def test_documented_imports_go_down() -> None:
    order = list(documented())
    for name, targets in documented().items():
        for target in targets:
            # The version, and nothing else, is above everything.
            if target != "__init__":
                assert order.index(target) > order.index(name), f"{name} imports {target}"


def test_modules_import_each_other_in_no_circle() -> None:
    remaining = {name: set(targets) for name, targets in IMPORTS.items()}
    while True:
        targets = set().union(*remaining.values())
        # A module that imports none of the others, or is imported by none, is in no circle.
        free = {n for n in remaining if n not in targets or not remaining[n] & set(remaining)}
        if not free:
            break
        for name in free:
            del remaining[name]
    assert not remaining, f"in a circle: {', '.join(remaining)}"


def test_no_file_is_long() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in SOURCES.items()}
    assert {name: n for name, n in lengths.items() if n > LONGEST} == {}
