"""What most tests are done with: each kind of handler, each kind of address."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

HANDLERS = {
    "echo": "echo",
    "echo-threaded": "echo-threaded",
    "plug-in": "support.handlers:TutorialHandler",
}
ADDRESSES = {
    "IPv4": "127.0.0.1:0",
    "IPv6": "[::1]:0",
    "all": "*:0",
    "unix": "unix:",
}
BOTH = [("echo", "IPv4"), ("echo", "unix"), ("echo-threaded", "unix"), ("plug-in", "IPv4")]
"""Where it is both that matter."""


def has_cpythons_tests() -> bool:
    """Whether Python was installed with its own tests."""
    try:
        return importlib.util.find_spec("test.test_socketserver") is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture
def handler(request: pytest.FixtureRequest) -> Any:
    """For ``--handler``."""
    return request.param


@pytest.fixture(params=list(ADDRESSES.values()), ids=list(ADDRESSES))
def every_address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """For ``--listen``."""
    return _address(request.param, tmp_path)


@pytest.fixture
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """For ``--listen``: one of each kind of socket."""
    return _address(request.param, tmp_path)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each handler, each kind of socket, or both together."""
    own = {
        name for mark in metafunc.definition.iter_markers("parametrize") for name in mark.args[0]
    }
    own |= {mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")}
    needs = {"handler", "address"} & set(metafunc.fixturenames) - own
    if needs == {"handler", "address"}:
        metafunc.parametrize(
            ("handler", "address"),
            [(HANDLERS[handler], ADDRESSES[address]) for handler, address in BOTH],
            ids=["-".join(both) for both in BOTH],
            indirect=True,
        )
    elif needs == {"handler"}:
        metafunc.parametrize("handler", list(HANDLERS.values()), ids=list(HANDLERS), indirect=True)
    elif needs == {"address"}:
        kinds = ["IPv4", "unix"]
        metafunc.parametrize("address", [ADDRESSES[k] for k in kinds], ids=kinds, indirect=True)


def _address(text: str, directory: Path) -> str:
    return f"unix:{directory / 'socket'}" if text == "unix:" else text


# What needs more than make, git and Python.  Where it is absent, that is said; the tests beside
# say the same in other ways.
EXTRAS = {
    "test_strace.py": (shutil.which("strace") is not None, "strace"),
    "test_cpython.py": (has_cpythons_tests(), "test.test_socketserver (libpython3-testsuite)"),
}
ALL = bool(os.environ.get("GRACED_ALL_TESTS"))
"""Set where a missing tool is a failure."""

collect_ignore = [name for name, (present, _) in EXTRAS.items() if not present and not ALL]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was not run."""
    for name in collect_ignore:
        terminalreporter.write_line(f"{name} not run: there is no {EXTRAS[name][1]}")
