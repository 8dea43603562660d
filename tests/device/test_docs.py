"""The transcripts that are said to work on a device, typed on one by root."""

import os
import pty
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from device.packages import Packages
from device.service import UNIT, Service
from docs.pages import DEVICE_PLACE, Session, sessions
from docs.terminal import PATIENCE, PROMPTS, SHELL, SKIP, follow, pattern
from rigging import Device

HOME = "/root"
ENVIRONMENT = (
    f"PS1={PROMPTS[DEVICE_PLACE]}",
    "TERM=dumb",
    # No person is there to press the space bar.
    "SYSTEMD_PAGER=",
)


@contextmanager
def terminals(number: int, device: Device) -> Iterator[list[int]]:
    """Pseudo-terminals with shells on the device; gives the masters' descriptors."""
    with ExitStack() as belongings:
        masters = []
        for _ in range(number):
            master, slave = pty.openpty()
            masters.append(master)
            # A session of its own in there: this one is of another process namespace.
            start = ("setsid", "--ctty", "--wait", "env", f"--chdir={HOME}", *ENVIRONMENT)
            shell = subprocess.Popen(
                device.command([*start, *SHELL]),
                stdin=slave,
                stdout=slave,
                stderr=slave,
                start_new_session=True,
            )
            os.close(slave)
            belongings.callback(shell.wait, PATIENCE)
            # The end of its terminal ends a shell, and what runs in the foreground.
            belongings.callback(os.close, master)
        yield masters


@pytest.fixture
def packages_at_home(device: Device, request: pytest.FixtureRequest) -> Iterator[None]:
    """The packages to be installed, in the directory of the administrator."""
    debs: Packages = request.getfixturevalue("debs")
    for deb in debs:
        device.copy_to(deb, f"{HOME}/{deb.name}")
    yield
    for deb in debs:
        device.remove(f"{HOME}/{deb.name}")


@contextmanager
def files(session: Session, device: Device) -> Iterator[None]:
    """The files of the page, as long as the session lasts."""
    names = [os.path.join(HOME, block.file) for block in session.files]
    for name, block in zip(names, session.files, strict=True):
        device.write(name, f"{block.text}\n")
    try:
        yield
    finally:
        for name in names:
            device.remove(name)


def forget_other_tests(graced: Service) -> None:
    """Begin with an empty journal and a new process: both tell of the tests before this one."""
    graced.stop()
    graced.device.run("journalctl", "--rotate", "--vacuum-files=1")
    graced.device.systemctl("start", UNIT)
    graced.mark()


@pytest.mark.usefixtures("packages_at_home")
@pytest.mark.parametrize("session", sessions(DEVICE_PLACE), ids=lambda session: session.name)
def test_transcript_matches_device(session: Session, graced: Service) -> None:
    device = graced.device

    def before(command: str, output: list[str]) -> None:
        """Type no faster than the journal: wait for the last record that is to be shown."""
        records = [line for line in output if line != SKIP]
        if command.startswith("journalctl") and records:
            last = pattern(records[-1])
            with graced.follow() as journal:
                journal.until(lambda record: bool(last.fullmatch(record.get("MESSAGE", ""))))

    forget_other_tests(graced)
    with files(session, device), terminals(session.terminals, device) as masters:
        follow(masters, PROMPTS[DEVICE_PLACE], session.steps(), before)
