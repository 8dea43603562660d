"""What systemd does with two processes of one service, on which docs/handover.md is built."""

from __future__ import annotations

from pathlib import Path

from rigging import Machine
from rigging.bus import UnitWatch

UNIT = "pair.service"
PROGRAM = Path(__file__).with_name("pair.py")
FILE = """[Service]
Type=notify
NotifyAccess=main
ExecStart=/usr/bin/python3 /usr/local/lib/pair.py old
User=daemon
RuntimeDirectory=pair
FileDescriptorStoreMax=8
KillMode=mixed
TimeoutStopSec=60s
Restart=on-failure
SuccessExitStatus=79
RestartForceExitStatus=79
RestartKillSignal=SIGUSR2
"""
WITH_PIDFILE = FILE + "PIDFile=/run/pair/pid\n"


class Pair:
    """The service, whose old process has started a new one."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.old = self.main_pid()
        self.new = int(self.tell("old", "start new"))

    def main_pid(self) -> int:
        return int(self.machine.show(UNIT, "MainPID")["MainPID"])

    def tell(self, name: str, command: str) -> str:
        """The answer of a process; empty: it has ended."""
        with self.machine.connect_unix(f"/run/pair/{name}") as connection:
            connection.sendall(command.encode())
            return connection.recv(1000).decode()

    def name_new(self) -> None:
        self.tell("old", f"say MAINPID={self.new}")
        assert self.main_pid() == self.new

    def kill(self, pid: int) -> None:
        self.machine.python(f"import os; os.kill({pid}, 9)")

    def lives(self, pid: int) -> bool:
        return self.machine.exists(f"/proc/{pid}")

    def watch(self) -> UnitWatch:
        return self.machine.watch(UNIT)


def start(machine: Machine, unit: str = WITH_PIDFILE) -> Pair:
    machine.copy_to(PROGRAM, "/usr/local/lib/pair.py")
    machine.write(f"/etc/systemd/system/{UNIT}", unit)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", UNIT)
    return Pair(machine)


def test_main_process_alone_is_heard(machine: Machine) -> None:
    """And a process can find out whether it is the one."""
    pair = start(machine)
    pair.tell("new", f"say MAINPID={pair.new} STATUS=new")
    assert pair.main_pid() == pair.old
    assert (pair.tell("old", "store a"), pair.tell("new", "store b")) == ("stored", "refused")
    pair.name_new()
    pair.tell("old", f"say MAINPID={pair.old} STATUS=old")
    assert pair.machine.show(UNIT, "MainPID", "StatusText") == {
        "MainPID": str(pair.new),
        "StatusText": "",
    }
    assert (pair.tell("old", "store c"), pair.tell("new", "store d")) == ("refused", "stored")


def test_process_of_the_pidfile_succeeds_one_that_is_killed(machine: Machine) -> None:
    pair = start(machine)
    pair.name_new()
    with pair.watch() as watch:
        pair.kill(pair.new)
        unit = watch.until(lambda unit: unit["MainPID"] == str(pair.old))
    assert (unit["SubState"], unit["NRestarts"], unit["Result"]) == ("running", "0", "success")
    assert pair.tell("old", "store a") == "stored"


def test_process_that_nothing_names_may_die(machine: Machine) -> None:
    pair = start(machine)
    pair.name_new()
    pair.kill(pair.old)
    assert pair.tell("new", "say STATUS=alone") == "said"
    unit = pair.machine.show(UNIT, "MainPID", "SubState", "StatusText", "NRestarts")
    assert unit == {
        "MainPID": str(pair.new),
        "SubState": "running",
        "StatusText": "alone",
        "NRestarts": "0",
    }


def test_without_pidfile_the_other_process_is_killed(machine: Machine) -> None:
    pair = start(machine, FILE)
    pair.name_new()
    with pair.watch() as watch:
        pair.kill(pair.new)
        watch.until(lambda unit: unit["NRestarts"] == "1" and unit["SubState"] == "running")
    assert not pair.lives(pair.old)


def test_stop_waits_for_the_process_of_the_pidfile(machine: Machine) -> None:
    pair = start(machine)
    pair.name_new()
    with pair.watch() as watch:
        pair.machine.systemctl("stop", "--no-block", UNIT)
        watch.until(lambda unit: unit["SubState"] == "stop-sigterm")
        pair.tell("new", "end 0")
        watch.until(lambda unit: unit["MainPID"] == str(pair.old))
        assert pair.tell("old", "say STATUS=drains") == "said"
        pair.tell("old", "end 0")
        unit = watch.until(lambda unit: unit["ActiveState"] == "inactive")
    assert unit["Result"] == "success"


def test_restart_gets_what_either_has_stored(machine: Machine) -> None:
    pair = start(machine)
    pair.name_new()
    with pair.watch() as watch:
        pair.machine.systemctl("restart", "--no-block", UNIT)
        watch.until(lambda unit: unit["SubState"] == "stop-sigterm")
        assert pair.tell("new", "store new") == "stored"
        pair.tell("new", "end 79")
        watch.until(lambda unit: unit["MainPID"] == str(pair.old))
        assert pair.tell("old", "store old") == "stored"
        pair.tell("old", "end 79")
        unit = watch.until(lambda unit: unit["SubState"] == "running")
    assert unit["NFileDescriptorStore"] == "2"
    environment = pair.machine.read(f"/proc/{unit['MainPID']}/environ").split("\0")
    (names,) = (each for each in environment if each.startswith("LISTEN_FDNAMES="))
    assert set(names.partition("=")[2].split(":")) == {"new", "old"}
