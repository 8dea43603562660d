"""Several services on one device: none notices what happens to another."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from device.example import PORTS, build_example
from device.packages import Packages
from device.service import UNIT, Service, receive
from rigging import CommandError, Machine

UPPER, LOWER = "graced@upper.service", "graced@lower.service"
ALL = {UNIT: 9999, UPPER: PORTS["upper"], LOWER: PORTS["lower"]}
ANSWERS = {UNIT: b"Word\n", UPPER: b"WORD\n", LOWER: b"word\n"}
SECOND = "/etc/graced/second.toml"
EXPOSURE = 1.2


class Neighbours:
    """A client of each service, and which process serves it.  A context manager."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.clients = {unit: machine.connect(port) for unit, port in ALL.items()}
        self.pids = {unit: self.pid(unit) for unit in ALL}
        self.assert_undisturbed(*ALL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for client in self.clients.values():
            client.close()

    def pid(self, unit: str) -> str:
        return self._machine.show(unit, "MainPID")["MainPID"]

    def served(self, *units: str) -> None:
        """The clients are still connected, to a handler that answers."""
        for unit in units:
            self.clients[unit].sendall(b"Word\n")
            assert receive(self.clients[unit], 5) == ANSWERS[unit], unit

    def assert_undisturbed(self, *units: str) -> None:
        """These services have noticed nothing."""
        self.served(*units)
        for unit in units:
            state = self._machine.show(unit, "ActiveState", "NRestarts", "MainPID")
            assert state == {
                "ActiveState": "active",
                "NRestarts": "0",
                "MainPID": self.pids[unit],
            }, unit

    def assert_handed_over(self, *units: str) -> None:
        """Another process serves the same clients."""
        self.served(*units)
        for unit in units:
            state = self._machine.show(unit, "ActiveState", "NRestarts", "Result")
            assert state == {"ActiveState": "active", "NRestarts": "0", "Result": "success"}, unit
            before, self.pids[unit] = self.pids[unit], self.pid(unit)
            assert self.pids[unit] != before, unit


@pytest.fixture
def neighbours(machine: Machine, debs: Packages, tmp_path: Path) -> Iterator[Neighbours]:
    machine.install(*debs, build_example(tmp_path), build_example(tmp_path, "lower"))
    with Neighbours(machine) as found:
        yield found


def test_packages_are_upgraded_stopped_and_purged_one_by_one(
    machine: Machine, neighbours: Neighbours, tmp_path: Path
) -> None:
    machine.install(build_example(tmp_path, version="1.1"))
    neighbours.assert_handed_over(UPPER)
    neighbours.assert_undisturbed(UNIT, LOWER)
    machine.systemctl("restart", LOWER)
    neighbours.assert_handed_over(LOWER)
    neighbours.assert_undisturbed(UNIT, UPPER)
    machine.systemctl("restart", UNIT)
    neighbours.assert_handed_over(UNIT)
    neighbours.assert_undisturbed(UPPER, LOWER)
    machine.systemctl("kill", "--kill-whom=main", "--signal=KILL", UPPER, check=False)
    with machine.watch(UPPER) as watch:
        watch.until(lambda unit: unit["NRestarts"] == "1" and unit["ActiveState"] == "active")
    neighbours.assert_undisturbed(UNIT, LOWER)
    machine.systemctl("stop", UPPER)
    neighbours.assert_undisturbed(UNIT, LOWER)
    machine.write("/etc/graced/upper.d/local.toml", "")
    machine.run("apt-get", "purge", "--yes", "graced-upper")
    neighbours.assert_undisturbed(UNIT, LOWER)
    found = machine.run("find", "/etc", "/run", "/var/lib", "-path", "*upper*").stdout.splitlines()
    assert [path for path in found if not path.startswith("/var/lib/dpkg")] == []
    machine.run("apt-get", "purge", "--yes", "graced-lower")
    neighbours.assert_undisturbed(UNIT)


def test_upgrade_of_graced_restarts_instances_that_run(
    machine: Machine, neighbours: Neighbours, debs: Packages, tmp_path: Path
) -> None:
    machine.systemctl("stop", LOWER)
    machine.install(*debs.rebuilt(tmp_path / "7.2", "7.2"))
    neighbours.assert_handed_over(UNIT, UPPER)
    assert machine.show(LOWER, "ActiveState")["ActiveState"] == "inactive"
    # One that has failed is tried again.
    machine.write("/etc/graced/lower.d/local.toml", "[handler]\nnonsense = 1\n")
    machine.systemctl("start", LOWER, check=False)
    assert machine.show(LOWER, "ActiveState")["ActiveState"] == "failed"
    machine.remove("/etc/graced/lower.d/local.toml")
    machine.install(*debs.rebuilt(tmp_path / "7.3", "7.3"))
    neighbours.assert_handed_over(UNIT, UPPER)
    assert machine.show(LOWER, "ActiveState")["ActiveState"] == "active"


def test_upgrade_of_graced_is_refused_where_an_instance_would_not_start(
    machine: Machine, neighbours: Neighbours, debs: Packages, tmp_path: Path
) -> None:
    machine.write("/etc/graced/upper.d/local.toml", "[handler]\nnonsense = 1\n")
    with pytest.raises(CommandError) as refused:
        machine.install(*debs.rebuilt(tmp_path / "7.2", "7.2"))
    text = refused.value.result.stdout + refused.value.result.stderr
    assert "unknown key 'handler.nonsense'" in text
    assert "graced@upper would not start with this version" in text
    neighbours.assert_undisturbed(*ALL)
    machine.remove("/etc/graced/upper.d/local.toml")
    machine.run("dpkg", "--configure", "-a")
    neighbours.assert_handed_over(*ALL)


def test_instance_by_hand(machine: Machine, debs: Packages) -> None:
    machine.install(*debs)
    # Without a configuration it would be the echo of the main service.
    with pytest.raises(CommandError):
        machine.systemctl("start", "graced@second")
    assert machine.show("graced@second", "Result", "ExecMainStatus")["ExecMainStatus"] == "78"
    machine.write(SECOND, "[server]\nlisten = ['localhost:9997', 'unix:/run/graced@second/s']\n")
    checked = machine.run("graced", "-i", "second", "-t").stdout
    assert "graced@second.service would serve localhost:9997, unix:/run/graced@second/s" in checked
    machine.systemctl("enable", "--now", "graced@second")
    ping = machine.run("gracectl", "-i", "second", "ping", "--count=3", "--interval=0").stdout
    assert "PING localhost:9997" in ping
    assert "3 received" in ping
    with machine.connect_unix("/run/graced@second/s") as client:
        client.sendall(b"a")
        assert receive(client, 1) == b"a"
        machine.systemctl("restart", "graced@second")
        client.sendall(b"b")
        assert receive(client, 1) == b"b"
        # The stop of the main service takes its runtime directory, and no other.
        machine.systemctl("stop", UNIT)
        client.sendall(b"c")
        assert receive(client, 1) == b"c"
    machine.systemctl("start", UNIT)
    assert Service(machine).echoes()
    machine.run("apt-get", "purge", "--yes", "graced", "python3-graced")
    found = machine.run("find", "/etc", "/run", "/var/lib", "-name", "*graced*").stdout
    assert [p for p in found.splitlines() if not p.startswith("/var/lib/dpkg")] == []


@pytest.mark.parametrize("name", ["conf", "graced"])
def test_names_of_the_main_service_are_refused(machine: Machine, debs: Packages, name: str) -> None:
    machine.install(*debs)
    machine.systemctl("start", f"graced@{name}", check=False)
    state = machine.show(f"graced@{name}", "ActiveState", "ExecMainStatus")
    assert state == {"ActiveState": "failed", "ExecMainStatus": "2"}
    assert Service(machine).echoes()


def test_sandbox_of_an_instance_is_that_of_the_service(machine: Machine, debs: Packages) -> None:
    machine.install(*debs)
    unit = "graced@second.service"
    verified = machine.run("systemd-analyze", "verify", "--man=no", unit)
    assert (verified.stdout, verified.stderr) == ("", "")
    report = machine.run("systemd-analyze", "security", "--no-pager", unit).stdout
    (line,) = [line for line in report.splitlines() if "Overall exposure level" in line]
    assert float(line.split(":")[1].split()[0]) <= EXPOSURE
    for name in ("RuntimeDirectory", "StateDirectory"):
        assert machine.show(unit, name)[name] == "graced@second"
