"""The first `make run`, where something is missing: one line, at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from docs import CHECKOUT
from docs.test_checkout import copy_of_checkout

OFFLINE = """
import os, sys
from docs.shells import enter_own_network
enter_own_network()
os.execvp(sys.argv[1], sys.argv[1:])
"""


def make_run(directory: Path, *before: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The first `make run` of a user who has configured nothing."""
    return subprocess.run(
        [*before, "make", "run", f"PYTHON={variables.get('PYTHON', sys.executable)}"],
        cwd=directory,
        env={"PATH": os.environ["PATH"], "HOME": str(directory), "PYTHONPATH": f"{CHECKOUT}/tests"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A checkout without a virtual environment."""
    checkout = copy_of_checkout(tmp_path)
    (checkout / ".venv").unlink()
    return checkout


@pytest.mark.needs("make")
def test_offline_start_is_refused_in_one_line(fresh: Path) -> None:
    done = make_run(fresh, sys.executable, "-c", OFFLINE)
    assert done.returncode == 2
    first, *rest = done.stderr.splitlines()
    assert first == (
        "make: cannot reach PyPI, from which pip installs what graced needs: is there a network?"
        " See .venv/install.log"
    )
    # What make says about it.
    assert len(rest) == 1
    assert "Retry(total=0" in (fresh / ".venv" / "install.log").read_text()


@pytest.mark.needs("make")
def test_missing_python_is_named(fresh: Path) -> None:
    done = make_run(fresh, PYTHON="python-that-is-not-there")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        "make: python-that-is-not-there is not installed (Debian: apt install python3)"
    )
