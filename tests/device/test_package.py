"""The package in the hands of apt: upgraded, switched off, removed, purged."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from device.load import Load
from device.packages import Packages
from device.service import FAREWELL, INHERITED, STOPPED, UNIT, Service, rest
from rigging import Machine

NAMES = ("graced", "python3-graced")
CONFIG = "/etc/graced/graced.toml"
EDIT = "# edited by the administrator\n"
KEEP = ("--option=Dpkg::Options::=--force-confold",)

# Everything but what is no part of the system, or is told by the tools that look after it.
FILES = """
import os
def walk(directory):
    for entry in os.scandir(directory):
        if entry.path in ("/dev", "/proc", "/run", "/sys", "/tmp", "/var/cache", "/var/log",
                          "/var/lib/apt", "/var/lib/dpkg", "/var/lib/systemd/timers"):
            continue
        print(entry.path)
        if entry.is_dir(follow_symlinks=False):
            walk(entry.path)
walk("/")
"""

# What a user of the system leaves who stays.
OF_THE_USER = {
    "/etc/.pwd.lock",
    "/etc/group-",
    "/etc/gshadow-",
    "/etc/passwd-",
    "/etc/shadow-",
}


@pytest.fixture
def previous(debs: Packages, tmp_path: Path) -> Packages:
    """The packages as an older version that shipped another configuration."""
    return debs.rebuilt(tmp_path / "0.0.1", "0.0.1", {CONFIG[1:]: "# as 0.0.1 shipped it\n"})


def version(machine: Machine) -> str:
    """The installed version."""
    return machine.run("dpkg-query", "--show", "--showformat=${Version}", "graced").stdout


def test_upgrade_under_load(machine: Machine, previous: Packages, debs: Packages) -> None:
    machine.install(*previous)
    assert version(machine) == "0.0.1"
    machine.write(CONFIG, edited := machine.read(CONFIG) + EDIT)
    graced = Service(machine)
    pid = graced.pid
    with ExitStack() as stack:
        clients = [stack.enter_context(client) for client in graced.connect(5)]
        with Load(graced, clients) as load:
            machine.install(*debs, options=KEEP)
            load.rounds(3)
    assert load.wrong == []
    assert version(machine) != "0.0.1"
    state = graced.show("ActiveState", "NRestarts", "UnitFileState", "Result")
    assert state == {
        "ActiveState": "active",
        "NRestarts": "0",
        "UnitFileState": "enabled",
        "Result": "success",
    }
    assert graced.pid != pid
    assert graced.echoes()
    (carried,) = graced.journal(f"MESSAGE_ID={INHERITED}")
    assert int(carried["GRACED_CLIENTS"]) >= 5
    assert machine.read(CONFIG) == edited


def test_upgrade_leaves_disabled_service_alone(
    machine: Machine, previous: Packages, debs: Packages
) -> None:
    machine.install(*previous)
    machine.systemctl("disable", "--now", UNIT)
    machine.install(*debs)
    assert version(machine) != "0.0.1"
    state = machine.show(UNIT, "ActiveState", "UnitFileState")
    assert state == {"ActiveState": "inactive", "UnitFileState": "disabled"}


def test_removal_and_purge_leave_nothing_but_user(machine: Machine, debs: Packages) -> None:
    before = set(machine.python(FILES).splitlines())
    machine.install(*debs)
    graced = Service(machine)
    (client,) = graced.connect()
    machine.write("/etc/graced/conf.d/local.toml", "[shutdown]\ngrace_period = 1\n")
    machine.run("gracectl", "ping", "--count=1")  # root may write byte code
    machine.run("apt-get", "remove", "--yes", *NAMES)
    assert client.recv(64) == FAREWELL
    assert rest(client) == b""
    client.close()
    assert machine.exists(CONFIG)
    assert machine.show(UNIT, "LoadState", "ActiveState")["ActiveState"] == "inactive"
    machine.run("apt-get", "purge", "--yes", *NAMES)
    left = set(machine.python(FILES).splitlines()) - before
    assert left <= OF_THE_USER
    assert not machine.exists("/run/graced")
    assert machine.show(UNIT, "LoadState")["LoadState"] == "not-found"
    assert machine.run("id", "graced").returncode == 0
    explained = machine.run("journalctl", "--list-catalog", STOPPED, check=False)
    assert explained.stdout == ""


def test_package_can_be_installed_again_after_purge(machine: Machine, debs: Packages) -> None:
    machine.install(*debs)
    machine.run("apt-get", "purge", "--yes", *NAMES)
    machine.install(*debs)
    assert Service(machine).echoes()
