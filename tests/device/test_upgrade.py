"""An upgrade: one that cannot start costs nobody anything, one that can is noticed by nobody."""

import re
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from device.load import Load
from device.service import INHERITED, UNIT, Service, receive
from rigging import CommandError, Machine

DROP_IN = "/etc/graced/conf.d/local.toml"
MODULES = "usr/share/graced/modules.zip"

Variant = Callable[..., Path]


@pytest.fixture
def variant(deb: Path, tmp_path: Path) -> Variant:
    """Builds the package with another version number, and maybe more code in one module."""

    def build(version: str, module: str = "", code: str = "") -> Path:
        tree = tmp_path / version
        subprocess.run(["dpkg-deb", "--raw-extract", deb, tree], check=True)
        control = tree / "DEBIAN" / "control"
        control.write_text(
            re.sub("^Version: .*", f"Version: {version}", control.read_text(), flags=re.MULTILINE)
        )
        if module:
            append(tree / MODULES, f"graced/{module}.py", code)
        built = tmp_path / f"graced_{version}_all.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "--build", tree, built],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return built

    return build


def append(archive: Path, name: str, text: str) -> None:
    """Add text to a file in an archive."""
    with zipfile.ZipFile(archive) as old:
        files = {item: old.read(item) for item in old.namelist()}
    files[name] += text.encode()
    with zipfile.ZipFile(archive, "w") as new:
        for item, data in files.items():
            new.writestr(item, data)


def package(machine: Machine) -> str:
    """Its version and its state."""
    wanted = "--showformat=${Version} ${db:Status-Status}"
    return machine.run("dpkg-query", "--show", wanted, "graced").stdout


def assert_refused(command: Callable[[], object], why: str) -> None:
    """The command fails, and the person at the terminal is told why and what to do."""
    with pytest.raises(CommandError) as failure:
        command()
    result = failure.value.result
    lines = (result.stdout + result.stderr).splitlines()
    *_, reason, advice = [line for line in lines if line.startswith("graced: ")]
    assert why in reason
    assert "goes on serving" in advice
    assert "dpkg --configure graced" in advice


class Customers:
    """Busy clients and an idle one, served since before the upgrade, and others that come and go.

    A context manager that lives as long as they do.
    """

    def __init__(self, graced: Service, busy: int = 1) -> None:
        self._graced = graced
        self._pid = graced.pid
        self._clients = graced.connect(1 + busy)
        self._load = Load(graced, self._clients[1:])

    def __enter__(self) -> Self:
        self._load.__enter__()
        self._load.rounds(3)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._load.__exit__(kind, error, traceback)
        for client in self._clients:
            client.close()
        assert self._load.wrong == []

    def assert_left_alone(self) -> None:
        """Nothing has happened, to them or to the process."""
        assert self._graced.show("ActiveState", "MainPID", "NRestarts") == {
            "ActiveState": "active",
            "MainPID": str(self._pid),
            "NRestarts": "0",
        }
        self._assert_served()

    def assert_carried_over(self) -> None:
        """Another process serves them, the first that was started since."""
        assert self._graced.show("ActiveState", "NRestarts", "Result") == {
            "ActiveState": "active",
            "NRestarts": "0",
            "Result": "success",
        }
        assert self._graced.pid != self._pid
        assert len(self._graced.journal(f"MESSAGE_ID={INHERITED}")) == 1
        self._assert_served()

    def _assert_served(self) -> None:
        self._load.rounds(3)
        assert self._load.wrong == []
        idle = self._clients[0]
        idle.sendall(b"still there?")
        assert receive(idle, 12) == b"still there?"
        assert self._graced.echoes()


def test_code_that_cannot_be_imported(machine: Machine, deb: Path, variant: Variant) -> None:
    machine.install(deb)
    with Customers(Service(machine)) as customers:
        broken = variant("0.2.0", "policy", "def broken(:\n")
        assert_refused(lambda: machine.install(broken), "SyntaxError: invalid syntax (policy.py")
        assert package(machine) == "0.2.0 half-configured"
        customers.assert_left_alone()
        # This one is imported for some handlers only, and by no --check-config.
        broken = variant("0.3.0", "logbridge", "import no_such_module\n")
        assert_refused(lambda: machine.install(broken), "graced.log.bridge cannot be imported")
        customers.assert_left_alone()
        machine.install(variant("0.4.0"))
        assert package(machine) == "0.4.0 installed"
        customers.assert_carried_over()


def test_configuration_that_is_refused(machine: Machine, deb: Path, variant: Variant) -> None:
    machine.install(deb)
    with Customers(Service(machine)) as customers:
        machine.write(DROP_IN, "[shutdown]\npatience = 1\n")
        new = variant("0.2.0")
        assert_refused(lambda: machine.install(new), f"{DROP_IN}: unknown key 'shutdown.patience'")
        customers.assert_left_alone()
        # What root may read, the service may not.
        machine.write(DROP_IN, "")
        machine.path(DROP_IN).chmod(0o600)
        configure = ("env", "PYTHONHOME=/nonexistent", "LISTEN_FDS=1", "dpkg", "--configure", "-a")
        assert_refused(lambda: machine.run(*configure), f"{DROP_IN}: Permission denied")
        assert package(machine) == "0.2.0 half-configured"
        customers.assert_left_alone()
        machine.path(DROP_IN).unlink()
        machine.run(*configure)
        assert package(machine) == "0.2.0 installed"
        customers.assert_carried_over()


def test_where_nothing_runs_there_is_nothing_to_protect(
    machine: Machine, deb: Path, variant: Variant
) -> None:
    machine.write(DROP_IN, "[shutdown]\npatience = 1\n")
    machine.install(deb)
    assert machine.show(UNIT, "ActiveState")["ActiveState"] == "failed"
    machine.install(variant("0.2.0"))
    assert package(machine) == "0.2.0 installed"
    assert machine.show(UNIT, "ActiveState")["ActiveState"] == "failed"
    machine.path(DROP_IN).unlink()
    # What repairs it may be an upgrade as well.
    machine.install(variant("0.3.0"))
    assert Service(machine).echoes()


def test_a_good_upgrade_is_noticed_by_nobody(machine: Machine, deb: Path, variant: Variant) -> None:
    machine.install(deb)
    with Customers(Service(machine), busy=5) as customers:
        machine.install(variant("0.2.0"))
        assert package(machine) == "0.2.0 installed"
        customers.assert_carried_over()
