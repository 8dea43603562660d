"""Which tests run where, the machines that they run on, and what is shown when one fails.

Environment: GRACED_DEBS names a directory with the packages to test (else ``make deb`` builds
them); GRACED_DEVICE=local tests the package that is installed on this very system.
"""

import os
import signal
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from device import CHECKOUT
from device.packages import Packages, build_last_release
from device.service import UNIT, Service
from rigging import RELEASES, Device, LocalDevice, Machine, RigError, unavailable

LOCAL = os.environ.get("GRACED_DEVICE") == "local"
NOT_RUN = None if LOCAL else unavailable()

# Fixtures that exist only where the rig has booted a container.
CONTAINER = {"build", "container", "machine"}

# Whether anybody asked for them.
_WANTED = pytest.StashKey[bool]()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Collect nothing where nothing can run."""
    if NOT_RUN is None or Path(__file__).parent not in collection_path.parents:
        return None
    config.stash[_WANTED] = True
    return True


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what was not run: a test that is silently missing looks like one that passed."""
    if config.stash.get(_WANTED, False):
        terminalreporter.write_line(f"device tests not run: {NOT_RUN}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a container where there is none."""
    if not LOCAL:
        return
    here = Path(__file__).parent
    out = [
        item
        for item in items
        if here in item.path.parents and CONTAINER.intersection(getattr(item, "fixturenames", ()))
    ]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Show the service as systemd sees it beside a failure."""
    outcome = yield
    report = outcome.get_result()
    if report.when in ("setup", "call") and report.failed:
        fixtures = getattr(item, "funcargs", {})
        for device in {fixtures.get(name) for name in ("machine", "device")}:
            if isinstance(device, Device):
                try:
                    text = device.describe(UNIT)
                except RigError as error:
                    text = str(error)
                report.sections.append((f"{UNIT} on {device.release}", text))


@pytest.fixture(scope="session", autouse=True)
def _terminated_in_order() -> Iterator[None]:
    """SIGTERM ends the session as Ctrl-C does, so that machines are cleaned up."""

    def stop(signum: int, _frame: FrameType | None) -> None:
        pytest.exit(f"signal {signum}", 128 + signum)

    before = signal.signal(signal.SIGTERM, stop)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def debs() -> Packages:
    """The packages under test."""
    named = os.environ.get("GRACED_DEBS")
    if named:
        return Packages(Path(named).resolve(strict=True))
    subprocess.run(["make", "deb"], cwd=CHECKOUT, check=True)
    return Packages(CHECKOUT / "dist")


@pytest.fixture(scope="session")
def last_release(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What is installed on devices that have the release before."""
    return build_last_release(tmp_path_factory.mktemp("last-release"))


@pytest.fixture(scope="session", params=["local"] if LOCAL else RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    """Each Debian release that the package is for."""
    return str(request.param)


@pytest.fixture(scope="session")
def device(release: str, request: pytest.FixtureRequest) -> Iterator[Device]:
    """A booted system with the package installed, shared by the tests."""
    if LOCAL:
        yield LocalDevice()
        return
    with Machine(release) as machine:
        machine.install(*request.getfixturevalue("debs"))
        yield machine


@pytest.fixture
def container(device: Device) -> Machine:
    """The same as device, for a test that needs to be outside of it."""
    assert isinstance(device, Machine)
    return device


@pytest.fixture
def machine(release: str) -> Iterator[Machine]:
    """A machine of the test's own, freshly booted, with nothing installed."""
    with Machine(release) as machine:
        yield machine


@pytest.fixture
def graced(device: Device) -> Iterator[Service]:
    """The service, running as it was shipped."""
    service = Service(device)
    service.reset()
    yield service
    # Whoever comes next resets; this is for what would outlive the last test on a real system.
    service.restore()
