"""What apt leaves behind: a service that runs, as whom and how, and on how little."""

import pytest

from device.packages import Packages
from device.service import PID_FILE, UNIT, Service, clients_now
from rigging import Device, Machine

# kB of resident memory, interpreter included.
LARGEST_DAEMON = 14 * 1024

PROCESS = """
import os, pwd, sys
pid = int(sys.argv[1])
def stat(pid):
    # The command's name, in parentheses, may hold anything.
    with open(f"/proc/{pid}/stat") as file:
        state, ppid, pgrp, session, tty, *rest = file.read().rpartition(")")[2].split()
    return int(ppid), int(session), int(tty)
ppid, session, tty = stat(pid)
others = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != pid]
sharing = [other for other in others if stat(other)[1] == session]
print(ppid, tty, len(sharing), pwd.getpwuid(os.stat(f"/proc/{pid}").st_uid).pw_name)
"""

LIBRARY = """
import importlib.metadata, pathlib
from importlib.util import cache_from_source
import graced
from graced import GracefulTCPServer, GracefulUnixStreamServer
home = pathlib.Path(graced.__file__).parent
sources = list(home.rglob("*.py"))
compiled = [source for source in sources if pathlib.Path(cache_from_source(source)).exists()]
print(home, importlib.metadata.version("graced") == graced.__version__, compiled == sources)
"""


def test_apt_installs_enables_and_starts(machine: Machine, debs: Packages) -> None:
    machine.install(*debs)
    state = machine.show(UNIT, "ActiveState", "UnitFileState", "MainPID", "Type", "NRestarts")
    pid = state.pop("MainPID")
    assert state == {
        "ActiveState": "active",
        "UnitFileState": "enabled",
        "Type": "notify",
        "NRestarts": "0",
    }
    assert machine.read(PID_FILE).split() == [pid]
    assert Service(machine).echoes()
    ping = machine.run("gracectl", "ping", "--count=3", "--interval=0")
    assert "3 received" in ping.stdout


@pytest.mark.every_kernel
def test_daemon_is_orphaned_in_own_session(graced: Service) -> None:
    facts = graced.device.python(PROCESS, str(graced.pid)).split()
    parent, terminal, sharing, user = facts
    assert (parent, terminal, sharing, user) == ("1", "0", "0", "graced")


def test_status_line_follows_clients(graced: Service) -> None:
    with graced.watch() as watch:
        watch.until(lambda unit: clients_now(unit["StatusText"]) == 0)
        clients = graced.connect(3)
        watch.until(lambda unit: clients_now(unit["StatusText"]) == 3)
        assert "3 clients" in graced.device.systemctl("status", UNIT)
        clients.pop().close()
        watch.until(lambda unit: clients_now(unit["StatusText"]) == 2)
        for client in clients:
            client.close()
        watch.until(lambda unit: clients_now(unit["StatusText"]) == 0)


def test_resident_memory(graced: Service) -> None:
    assert graced.echoes()
    status = graced.device.read(f"/proc/{graced.pid}/status")
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    assert int(line.split()[1]) <= LARGEST_DAEMON


def test_library_is_importable_by_every_program(device: Device) -> None:
    facts = device.python(LIBRARY).split()
    assert facts == ["/usr/lib/python3/dist-packages/graced", "True", "True"]
