"""Both classes of the library, each with an address to bind."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from support.library import LOCALHOST, TellingServer, TellingUnixServer


@pytest.fixture(params=[TellingServer, TellingUnixServer], ids=["tcp", "unix"])
def server_class(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def where(server_class: type[TellingServer], tmp_path: Path) -> Any:
    if server_class.address_family == socket.AF_UNIX:
        return str(tmp_path / "socket")
    return LOCALHOST
