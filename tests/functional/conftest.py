"""What most tests are done with: each kind of handler and of address, a service manager."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import FdStore

HANDLERS = {
    "echo": "echo",
    "echo-threaded": "echo-threaded",
    "plug-in": "support.handlers:TellingHandler",
    "stream": "support.streams:TellingEcho",
    "asyncio": "support.asynchronous:Polite",
}
ADDRESSES = {
    "IPv4": "127.0.0.1:0",
    "IPv6": "[::1]:0",
    "all": "*:0",
    "unix": "unix:",
}
BOTH = [
    ("echo", "IPv4"),
    ("echo", "unix"),
    ("echo-threaded", "unix"),
    ("plug-in", "IPv4"),
    ("stream", "IPv4"),
    ("stream", "unix"),
    ("asyncio", "IPv4"),
    ("asyncio", "unix"),
]
"""Where it is both that matter."""


@pytest.fixture
def handler(request: pytest.FixtureRequest) -> Any:
    """For ``--handler``."""
    return request.param


@pytest.fixture
def store() -> Iterator[FdStore]:
    """A service manager, which keeps descriptors for the next start."""
    found = FdStore()
    with found:
        yield found


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
