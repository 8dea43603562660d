"""The transcripts that are said to work in a checkout, typed in one, by whoever runs the tests."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from docs import CHECKOUT
from docs.pages import CHECKOUT_PLACE, Session, sessions
from docs.terminal import PATIENCE, PROMPTS, SHELL, follow

SESSIONS = sessions(CHECKOUT_PLACE)


@contextmanager
def terminals(number: int, directory: Path) -> Iterator[list[int]]:
    """Pseudo-terminals with shells in `directory`; gives the masters' descriptors."""
    with ExitStack() as belongings:
        pairs = [pty.openpty() for _ in range(number)]
        shells = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("shells.py")),
                ",".join(str(slave) for _, slave in pairs),
                *SHELL,
            ],
            pass_fds=[slave for _, slave in pairs],
            stdin=subprocess.DEVNULL,
            cwd=directory,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(directory),
                "LANG": "C.UTF-8",
                "TERM": "dumb",
                "PS1": PROMPTS[CHECKOUT_PLACE],
            },
        )
        belongings.callback(shells.wait, PATIENCE)
        for master, slave in pairs:
            os.close(slave)
            # The end of its terminal ends a shell, and what runs in the foreground.
            belongings.callback(os.close, master)
        yield [master for master, _ in pairs]


@pytest.fixture(scope="session")
def virtual_environment() -> None:
    """What the first `make run` makes: the shells of the tests have no network to make it with."""
    subprocess.run(["make", "--silent", ".venv/.ready"], cwd=CHECKOUT, check=True)


def copy_of_checkout(directory: Path) -> Path:
    """A directory with what a checkout has, in which files can be made."""
    copy = directory / "graced"
    copy.mkdir(mode=0o700)
    for entry in CHECKOUT.iterdir():
        (copy / entry.name).symlink_to(entry)
    return copy


@pytest.mark.needs("make", "bash")
@pytest.mark.usefixtures("virtual_environment")
@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session.name)
def test_transcript_matches_checkout(session: Session, tmp_path: Path) -> None:
    directory = copy_of_checkout(tmp_path)
    for block in session.files:
        if not block.file.startswith("/"):
            (directory / block.file).write_text(f"{block.text}\n")
    with terminals(session.terminals, directory) as masters:
        follow(masters, PROMPTS[CHECKOUT_PLACE], session.steps())
