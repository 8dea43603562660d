"""CPython's own tests, where they are installed (Debian: libpython3-testsuite)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import PATIENCE, environment

TESTS = Path(os.__file__).with_name("test") / "test_socketserver.py"


@pytest.mark.needs(str(TESTS))
def test_cases_of_cpython_pass_with_our_classes() -> None:
    # Its tests warn of what they do on purpose: threads are left to be reaped.
    found = subprocess.run(
        [sys.executable, "-m", "functional.cpython_socketserver"],
        env=environment({"PYTHONWARNINGS": "default"}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert found.returncode == 0, found.stderr
