"""CPython's own tests, where they are installed (Debian: libpython3-testsuite)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import PATIENCE, environment

TESTS = Path(os.__file__).with_name("test")
PROGRAMS = {
    "cpython_socketserver": TESTS / "test_socketserver.py",
    "cpython_transports": TESTS / "test_asyncio",
}


@pytest.mark.parametrize(
    "program", [pytest.param(n, marks=pytest.mark.needs(str(p))) for n, p in PROGRAMS.items()]
)
def test_cases_of_cpython_pass_with_our_classes(program: str) -> None:
    # Its tests warn of what they do on purpose: threads are left to be reaped.
    found = subprocess.run(
        [sys.executable, "-m", f"functional.{program}"],
        env=environment({"PYTHONWARNINGS": "default"}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert found.returncode == 0, found.stderr
