"""Which tests run where, the machines that they run on, and what is shown when one fails.

Environment: GRACED_DEBS names a directory with the packages to test (else ``make deb`` builds
them); GRACED_DEVICE=local tests the package that is installed on this very system. GRACED_MACHINES
names the machines to test on (packaging/rig.py knows them). Else each test runs in a container of
each release, and with GRACED_ALL_TESTS=1 those that are marked ``every_kernel`` run on the virtual
machines of KERNELS too, with GRACED_FULL=1 all of them.
"""

import os
import signal
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import rigging
from device import CHECKOUT
from device.packages import Packages, build_last_release
from device.service import UNIT, Service
from rigging import (
    CONTAINERS,
    MACHINES,
    Container,
    Device,
    LocalDevice,
    Machine,
    RigError,
    unavailable,
)
from rigging.cache import locked
from robustness.scale import FULL

LOCAL = os.environ.get("GRACED_DEVICE") == "local"
NOT_RUN = None if LOCAL else unavailable()

# Debian's own kernels, each release's, on which the tests have to pass: for x86, and for an ARM
# processor with 64 bits and one with 32.
KERNELS = ("bookworm-vm", "trixie-vm", "bookworm-arm64", "trixie-armhf")

# Fixtures that exist only where the rig has booted a machine, and only where that is a container.
BOOTED = {"booted", "machine"}
CONTAINED = {"build", "container"}

# The same in all processes of one run (pytest-xdist).
RUN = "PYTEST_XDIST_TESTRUNUID"

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


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "every_kernel: also run on Debian's own kernels")
    config.addinivalue_line("markers", "xdist_group(name): run in one process, one by one")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on the machines that it is for."""
    if "target" in metafunc.fixturenames:
        metafunc.parametrize("target", _targets(metafunc), scope="session")


def _targets(metafunc: pytest.Metafunc) -> list[str]:
    if LOCAL:
        return ["local"]
    names = os.environ.get("GRACED_MACHINES", "").split()
    if not set(names) <= set(MACHINES):
        raise pytest.UsageError(f"GRACED_MACHINES may name {' '.join(MACHINES)}")
    if not names:
        names = [*CONTAINERS]
        everywhere = metafunc.definition.get_closest_marker("every_kernel") is not None
        if FULL or (everywhere and os.environ.get("GRACED_ALL_TESTS")):
            names += KERNELS
    if CONTAINED.intersection(metafunc.fixturenames):
        names = [name for name in names if name in CONTAINERS]
    reason = unavailable(*names)
    if reason is not None:
        raise pytest.UsageError(reason)
    return names


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep a machine's tests together, and leave out what needs one of the rig's if there is none.

    Tests that run side by side (`make test`) would boot a machine per process.
    """
    here = Path(__file__).parent
    ours = [item for item in items if here in item.path.parents]
    for item in ours:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        item.add_marker(pytest.mark.xdist_group(parameters.get("target", "host")))
    if not LOCAL:
        return
    out = [
        item
        for item in ours
        if (BOOTED | CONTAINED).intersection(getattr(item, "fixturenames", ()))
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
                report.sections.append((f"{UNIT} on {device.name}", text))


@pytest.fixture(scope="session", autouse=True)
def _terminated_in_order() -> Iterator[None]:
    """SIGTERM ends the session as Ctrl-C does, so that machines are cleaned up."""

    def stop(signum: int, _frame: FrameType | None) -> None:
        pytest.exit(f"signal {signum}", 128 + signum)

    before = signal.signal(signal.SIGTERM, stop)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def debs(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """The packages under test."""
    named = os.environ.get("GRACED_DEBS")
    if named:
        return Packages(Path(named).resolve(strict=True))
    built = tmp_path_factory.getbasetemp().parent / f"debs-{os.environ.get(RUN, os.getpid())}"
    with locked(built.with_suffix(".lock")):
        if not built.exists():
            subprocess.run(["make", "deb"], cwd=CHECKOUT, check=True)
            built.touch()
    return Packages(CHECKOUT / "dist")


@pytest.fixture(scope="session")
def last_release(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What is installed on devices that have the release before."""
    return build_last_release(tmp_path_factory.mktemp("last-release"))


@pytest.fixture(scope="session")
def device(target: str, request: pytest.FixtureRequest) -> Iterator[Device]:
    """A booted system with the package installed, shared by the tests."""
    if LOCAL:
        yield LocalDevice()
        return
    with rigging.machine(target) as booted:
        booted.install(*request.getfixturevalue("debs"))
        yield booted


@pytest.fixture
def booted(device: Device) -> Machine:
    """The same as device, for a test that needs to be outside of it."""
    assert isinstance(device, Machine)
    return device


@pytest.fixture
def container(booted: Machine) -> Container:
    """The same where the device is a container; not on virtual machines."""
    assert isinstance(booted, Container)
    return booted


@pytest.fixture
def machine(target: str) -> Iterator[Machine]:
    """A machine of the test's own, freshly booted, with nothing installed."""
    with rigging.machine(target) as fresh:
        yield fresh


@pytest.fixture
def graced(device: Device) -> Iterator[Service]:
    """The service, running as it was shipped."""
    service = Service(device)
    service.reset()
    yield service
    # Whoever comes next resets; this is for what would outlive the last test on a real system.
    service.restore()
