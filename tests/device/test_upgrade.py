"""Upgrades: no client notices a good one, and no client is lost by one that cannot start."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from device.counting import KINDS, assert_counted, configure, totals
from device.load import Load
from device.packages import MODULES, Packages
from device.service import INHERITED, UNIT, Service, receive
from rigging import CommandError, Machine

DROP_IN = "/etc/graced/conf.d/local.toml"

Variant = Callable[..., Packages]


@pytest.fixture
def variant(debs: Packages, tmp_path: Path) -> Variant:
    """Builds the packages with another version number, and maybe more code in one module."""

    def build(version: str, module: str = "", code: str = "") -> Packages:
        path = f"{MODULES}/{module.replace('.', '/')}.py"
        return debs.rebuilt(tmp_path / version, version, {path: code} if module else None)

    return build


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

    A context manager that lives as long as they do.  `counting`: handlers count their bytes.
    """

    def __init__(self, graced: Service, busy: int = 1, *, counting: bool = False) -> None:
        self._graced = graced
        self._pid = graced.pid
        self._clients = graced.connect(1 + busy)
        self._load = Load(graced, self._clients[1:])
        self._before = totals(self._clients[1:]) if counting else None

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
        if self._before and not (error or self._load.wrong):
            assert_counted(self._load, self._clients[1:], self._before)
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
        self._pid = self._graced.pid
        self._graced.mark()

    def _assert_served(self) -> None:
        self._load.rounds(3)
        assert self._load.wrong == []
        idle = self._clients[0]
        idle.sendall(b"still there?")
        assert receive(idle, 12) == b"still there?"
        assert self._graced.echoes()


def test_code_that_cannot_be_imported(machine: Machine, debs: Packages, variant: Variant) -> None:
    machine.install(*debs)
    with Customers(Service(machine)) as customers:
        # py3compile refuses this module, before the postinst of graced checks anything.
        broken = variant("7.1", "loop.policy", "def broken(:\n")
        with pytest.raises(CommandError, match="SyntaxError: invalid syntax"):
            machine.install(*broken)
        assert package(machine) == "7.1 unpacked"
        customers.assert_left_alone()
        broken = variant("7.2", "loop.policy", "no_such_name\n")
        assert_refused(lambda: machine.install(*broken), "NameError: name 'no_such_name'")
        assert package(machine) == "7.2 half-configured"
        customers.assert_left_alone()
        # This one is imported for some handlers only, and by no --check-config.
        broken = variant("7.3", "log.bridge", "import no_such_module\n")
        assert_refused(lambda: machine.install(*broken), "graced.log.bridge cannot be imported")
        customers.assert_left_alone()
        machine.install(*variant("7.4"))
        assert package(machine) == "7.4 installed"
        customers.assert_carried_over()


def test_configuration_that_is_refused(machine: Machine, debs: Packages, variant: Variant) -> None:
    machine.install(*debs)
    with Customers(Service(machine)) as customers:
        machine.write(DROP_IN, "[shutdown]\npatience = 1\n")
        new = variant("7.2")
        assert_refused(lambda: machine.install(*new), f"{DROP_IN}: unknown key 'shutdown.patience'")
        customers.assert_left_alone()
        # What root may read, the service may not.
        machine.write(DROP_IN, "")
        machine.run("chmod", "600", DROP_IN)
        configure = ("env", "PYTHONHOME=/nonexistent", "LISTEN_FDS=1", "dpkg", "--configure", "-a")
        assert_refused(lambda: machine.run(*configure), f"{DROP_IN}: Permission denied")
        assert package(machine) == "7.2 half-configured"
        customers.assert_left_alone()
        machine.remove(DROP_IN)
        machine.run(*configure)
        assert package(machine) == "7.2 installed"
        customers.assert_carried_over()


def test_where_no_service_runs_nothing_is_protected(
    machine: Machine, debs: Packages, variant: Variant
) -> None:
    machine.write(DROP_IN, "[shutdown]\npatience = 1\n")
    machine.install(*debs)
    assert machine.show(UNIT, "ActiveState")["ActiveState"] == "failed"
    machine.install(*variant("7.2"))
    assert package(machine) == "7.2 installed"
    assert machine.show(UNIT, "ActiveState")["ActiveState"] == "failed"
    machine.remove(DROP_IN)
    # What repairs it may be an upgrade as well.
    machine.install(*variant("7.3"))
    assert Service(machine).echoes()


def test_upgrade_leaves_a_service_alone_that_was_stopped(
    machine: Machine, debs: Packages, variant: Variant
) -> None:
    machine.install(*debs)
    machine.systemctl("stop", UNIT)
    machine.install(*variant("7.2"))
    assert machine.show(UNIT, "ActiveState")["ActiveState"] == "inactive"
    # Only the upgrade: what a removal has stopped is started by the installation after it.
    machine.run("dpkg", "--remove", "graced")
    machine.install(*debs)
    assert Service(machine).echoes()
    # And a service that was disabled, but runs, goes on.
    machine.systemctl("disable", UNIT)
    with Customers(Service(machine)) as customers:
        machine.install(*variant("7.3"))
        customers.assert_carried_over()


def test_good_upgrade_disturbs_no_client(
    machine: Machine, debs: Packages, variant: Variant
) -> None:
    machine.install(*debs)
    with Customers(Service(machine), busy=5) as customers:
        machine.install(*variant("7.2"))
        assert package(machine) == "7.2 installed"
        customers.assert_carried_over()


def test_good_upgrade_keeps_the_state_of_each_kind_of_handler(
    machine: Machine, debs: Packages, variant: Variant
) -> None:
    machine.install(*debs)
    graced = Service(machine)
    for number, kind in enumerate(KINDS, start=2):
        configure(graced, kind)
        graced.mark()
        with Customers(graced, busy=5, counting=True) as customers:
            machine.install(*variant(f"7.{number}"))
            customers.assert_carried_over()


def test_upgrade_from_last_release_and_downgrade(
    machine: Machine, last_release: list[Path], debs: Packages
) -> None:
    machine.install(*last_release)
    before = package(machine)
    assert machine.exists("/usr/share/graced/modules.zip")
    with Customers(Service(machine), busy=5) as customers:
        machine.install(*debs)
        assert package(machine) not in ("", before)
        customers.assert_carried_over()
        # Both archives of modules are gone: 0.1.0 shipped modules.zip and made cpython-311.zip.
        assert machine.run("ls", "/usr/share/graced").stdout.split() == [
            *("byte-code", "check", "instance")
        ]
        machine.install(*last_release)
        assert package(machine) == before
        customers.assert_carried_over()
