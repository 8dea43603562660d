"""A device as the random walk sees it: what is asked for, what is there, and what is missing."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from device.nature import LATE_ADDRESS, add_alias, deaf_resolver, remove_alias
from device.packages import Packages
from device.service import FAREWELL, UNIT, Service, receive, rest
from rigging import Container, Machine

ADDRESSES = {
    "first": "127.0.0.1:9999",
    "second": "127.0.0.1:9998",
    "localhost": "localhost:9997",
    "late": f"{LATE_ADDRESS}:9996",
    "named": "late.example:9995",
    "path": "unix:/run/graced/walk",
}
CONFIG = "/etc/graced/conf.d/walk.toml"
DROP_IN = f"/etc/systemd/system/{UNIT}.d/walk.conf"
QUICK = "[Service]\nRestartSec=200ms\n"
"""A crash is over soon: the walk has many."""
LATE = frozenset({"late", "named"})
"""Addresses that come and go: a number, which can be bound before it comes, and a name."""
GHOST = (
    "[server]\nkeepalive_idle = 1\nkeepalive_interval = 1\nkeepalive_count = 2\nuser_timeout = 3\n"
)
"""How soon the kernel ends the connection of a client whose address has gone: 3 s."""
PLACES = re.compile(r" echoed on (.*?)(?: and (\d+) more)?(?:;|$)")
"""Of a status line: addresses, and how many others there are."""
FULL = {
    "blocks": "size=$(($(df --output=used /run | tail -n 1)))k",
    "inodes": "nr_inodes=$(($(df --output=iused /run | tail -n 1)))",
}
"""Options of mount(8) that leave no room in /run."""
ROOM = "size=20%,nr_inodes=800k"
HOSTS = "127.0.0.1 localhost\n::1 localhost\n"
RETIREMENT = 2.0
"""Seconds after READY=1 within which a listener is gone that is configured no more: the store of
systemd is told to forget it when the start can fail no longer."""
TRY = 12.0
"""Seconds that one more try may take to resolve a name: a name server is asked twice."""
LONGEST_PAUSE = 60.0
"""Seconds between two tries, which begin with 1 s and double."""
MAX_MEMORY = 48 * 1024
"""KiB of the daemon, whatever has happened to it."""
SPARE = 3
"""Descriptors by which a process may differ from the first: a log, a watch, a preflight."""
LISTENING = "0A"
"""The state in /proc/net/tcp; ACCEPTS is the flag in /proc/net/unix."""
ACCEPTS = "00010000"
_LOOK = """
systemctl show --property=ActiveState,SubState,MainPID,NFileDescriptorStore,StatusText "$1"
cat /proc/net/tcp /proc/net/tcp6 /proc/net/unix
pid=$(systemctl show --property=MainPID --value "$1")
[ "$pid" = 0 ] || { echo "fds=$(ls /proc/$pid/fd | wc -l)"; grep VmRSS /proc/$pid/status; }
"""


_FOR_CLIENTS = re.compile(r"/run/graced/(?!control)")
"""Paths of listeners; the control socket is none."""


class Sight(NamedTuple):
    """The unit and its listeners at one moment."""

    state: str
    sub_state: str
    pid: int
    stored: int
    status: str
    listening: frozenset[str]
    """Ports and paths."""
    listeners: int
    descriptors: int
    memory: int
    """KiB."""

    @property
    def settled(self) -> bool:
        """Whether systemd has nothing more to do by itself."""
        return self.state in ("active", "failed", "inactive")


class World:
    """The device, its administrator's wishes, and the clients that are connected."""

    def __init__(self, machine: Machine, packages: tuple[Packages, Packages]) -> None:
        self.machine = machine
        self.packages = packages
        self.newer = False
        self.service = Service(machine)
        self.clients: list[socket.socket] = []
        self.listen = frozenset({"first"})
        """The configuration on the disk, by the names in `ADDRESSES`."""
        self.served = self.listen
        """The configuration that the running process was started with."""
        self.valid = True
        self.wanted = True
        self._first_descriptors = 0
        self._deaf: socket.socket | None = None
        self.absent = LATE
        self.holds_name = False
        """Whether there is a listener of the name, which outlives the name itself."""
        self.name_known = False
        """Whether the name was there at some time since the process started."""
        self.started = time.monotonic()
        """When the process that serves was started."""

    def reset(self) -> None:
        """Begin a walk where every walk begins; the version that is installed may differ."""
        for client in self.clients:
            client.close()
        self.clients = []
        for name in LATE - self.absent:
            self.take_away(name)
        self.silence_resolver(silent=False)
        self.change_unit("")
        self.configure(frozenset({"first"}))
        self.order("restart")

    def close(self) -> None:
        """Let the clients and the resolver go."""
        for sock in (*self.clients, self._deaf):
            if sock:
                sock.close()

    # What administrators do.

    def configure(self, listen: frozenset[str], *, valid: bool = True) -> None:
        """Edit the configuration."""
        self.listen, self.valid = listen, valid
        addresses = ", ".join(f'"{ADDRESSES[name]}"' for name in sorted(listen))
        grace = "0.3" if valid else '"soon"'
        self.machine.write(
            CONFIG, f"{GHOST}listen = [{addresses}]\n[shutdown]\ngrace_period = {grace}\n"
        )

    def change_unit(self, text: str) -> None:
        """Edit the unit."""
        self.machine.write(DROP_IN, QUICK + text)
        self.machine.systemctl("daemon-reload")

    def order(self, verb: str) -> None:
        """Start, stop or restart the service; a start that fails is looked at afterwards."""
        runs = self.wanted and self.valid
        self.wanted = verb != "stop"
        self.machine.systemctl(verb, UNIT, check=False)
        if verb != "start" or not runs:
            self._started()

    def _started(self) -> None:
        """Another process serves, or none: what it serves is what the configuration says."""
        if self.wanted:
            self.served = self.listen
        self.started = time.monotonic()
        self.name_known = "named" not in self.absent
        serving = self.wanted and self.valid and "named" in self.served
        self.holds_name = serving and (self.holds_name or "named" not in self.absent)

    def change_version(self) -> None:
        """Upgrade, or back to the version before."""
        self.newer = not self.newer
        debs = [f"/var/tmp/{deb.name}" for deb in self.packages[self.newer]]
        self.machine.run("dpkg", "--install", *debs)
        self._started()

    def reboot(self) -> None:
        """Reboot: what is enabled is started."""
        self.close()
        self.clients, self._deaf = [], None
        self.machine.write("/etc/hosts", HOSTS)
        self.machine.reboot()
        self.absent = LATE
        self.wanted, self.holds_name = True, False
        self._started()
        self._first_descriptors = 0

    # What nature does.

    def kill(self) -> None:
        """Kill the daemon; return when systemd has noticed."""
        pid = self.look().pid
        with self.service.watch() as watch:
            self.machine.systemctl("kill", "--signal=SIGKILL", UNIT)
            watch.until(lambda unit: unit["MainPID"] != str(pid))
        self._started()

    @contextmanager
    def manager_stopped(self) -> Iterator[None]:
        """Stop PID 1 for a while."""
        assert isinstance(self.machine, Container)
        os.kill(self.machine.leader, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.machine.leader, signal.SIGCONT)

    def silence_resolver(self, *, silent: bool) -> None:
        """Let the resolver answer nothing; or have none."""
        if self._deaf:
            self._deaf.close()
            self._deaf = None
        if silent:
            self._deaf = self.machine.inside(deaf_resolver)
        self.machine.write("/etc/resolv.conf", "nameserver 127.0.0.99\n" if silent else "")

    def bring(self, name: str) -> None:
        """Let an address or a name come that was absent."""
        if name == "late":
            self.machine.inside(add_alias)
        else:
            self.machine.write("/etc/hosts", f"{HOSTS}127.0.0.1 late.example\n")
            self.name_known = True
        self.absent -= {name}

    def take_away(self, name: str) -> None:
        """Let an address or a name go; clients of the address are left without a word."""
        self.absent |= {name}
        if name == "named":
            self.machine.write("/etc/hosts", HOSTS)
            return
        self.machine.inside(remove_alias)
        gone = [each for each in self.clients if _is_late(each)]
        self.clients = [each for each in self.clients if each not in gone]
        for client in gone:
            client.close()

    @contextmanager
    def full_run(self, kind: str) -> Iterator[None]:
        """Leave no room in /run for a while."""
        remount = "mount --options remount,{} /run"
        self.machine.run("sh", "-ec", remount.format(FULL[kind]))
        try:
            yield
        finally:
            self.machine.run("sh", "-ec", remount.format(ROOM))

    def await_return(self) -> None:
        """Wait until the service is active again, by itself."""
        with self.service.watch() as watch:
            watch.until(lambda unit: unit["ActiveState"] == "active")
        self._started()

    # What is there.

    def look(self) -> Sight:
        """Look at the unit and at the listeners."""
        lines = self.machine.run("sh", "-c", _LOOK, "look", UNIT).stdout.splitlines()
        unit = dict(line.split("=", 1) for line in lines if "=" in line)
        found = []
        for words in map(str.split, lines):
            if len(words) > 9 and words[3] == LISTENING:
                found.append(str(int(words[1].rpartition(":")[2], 16)))
            elif len(words) == 8 and words[3] == ACCEPTS and _FOR_CLIENTS.match(words[7]):
                found.append(words[7])
        memory = [line.split()[1] for line in lines if line.startswith("VmRSS")]
        return Sight(
            unit["ActiveState"],
            unit["SubState"],
            int(unit["MainPID"]),
            int(unit["NFileDescriptorStore"]),
            unit["StatusText"],
            frozenset(found),
            len(found),
            int(unit.get("fds", 0)),
            int(memory[0]) if memory else 0,
        )

    def settle(self) -> Sight:
        """Look when systemd has nothing more to do by itself."""
        sight = self.look()
        if not sight.settled:
            with self.service.watch() as watch:
                watch.until(lambda unit: unit["ActiveState"] in ("active", "failed", "inactive"))
            sight = self.look()
        return sight

    def connect(self) -> None:
        """One more client, on each address that is served."""
        for name in sorted(self.served - self.absent):
            client = self._client(ADDRESSES[name])
            self.clients.append(client)
            assert _echoes(client), f"{name} does not serve"

    def _client(self, address: str) -> socket.socket:
        if address.startswith("unix:"):
            return self.machine.connect_unix(address.removeprefix("unix:"))
        host, _, port = address.rpartition(":")
        return self.machine.connect(int(port), LATE_ADDRESS if "192" in host else "127.0.0.1")

    # What must be true.

    def check(self) -> None:
        """The invariants: configured addresses are served, no client waits, nothing grows."""
        serving = self.wanted and self.valid
        served = self.served if serving else frozenset()
        if not self.holds_name and "named" in self.absent:
            served -= {"named"}
        expected = {ADDRESSES[name].rpartition(":")[2] for name in served}
        sight = self.settle()
        patience = RETIREMENT
        if "named" in self.served:
            patience += TRY + min(time.monotonic() - self.started, LONGEST_PAUSE)
        until = time.monotonic() + patience
        while (sight.listening != expected or self._untruth(sight)) and time.monotonic() < until:
            sight = self.look()
        assert (sight.state == "active") == serving, sight
        assert sight.listening == expected, sight
        assert not self._untruth(sight), (self._untruth(sight), sight)
        self.holds_name = "named" in served
        assert all(map(_echoes, self.clients))
        if not serving:
            assert not self.clients
            assert sight.stored == 0, sight
            return
        before = len(self.clients)
        self.connect()
        _leave(self.clients[before:])
        del self.clients[before:]
        assert sight.stored <= sight.listeners + 1, sight
        assert sight.memory < MAX_MEMORY, sight
        own = sight.descriptors - sight.listeners - before
        self._first_descriptors = self._first_descriptors or own
        assert own <= self._first_descriptors + SPARE, sight

    def _untruth(self, sight: Sight) -> str:
        """What is wrong about the status line; empty: nothing."""
        status = sight.status
        if not self.wanted:
            # A service that could not be started, and then was stopped, still says why.
            true = status.startswith(("stopped: ", "cannot start: "))
            return "" if true else "it is stopped"
        if not self.valid:
            true = status.startswith(f"cannot start: {CONFIG}: ")
            return "" if true else f"{CONFIG} is wrong"
        found = PLACES.search(status)
        if not (status.startswith("serving: ") and found):
            return "it serves"
        listed = found[1].split(", ") if found[1] != "no address yet" else []
        ports = {each.rpartition(":")[2] for each in listed}
        if not ports <= sight.listening:
            return f"{listed} are not served"
        if len(listed) + int(found[2] or 0) != sight.listeners:
            return "it serves other addresses"
        waits = "named" in self.served and not self.name_known
        return "" if waits == ("waiting for" in status) else f"waiting is {waits}"

    def await_count(self) -> None:
        """Wait until the status line has the number of clients, those without an end being gone."""
        now = rf"serving: {len(self.clients)} clients? now"
        with self.service.watch() as watch:
            watch.until(lambda unit: re.match(now, unit["StatusText"]) is not None)

    def end_clients(self, *words: bytes) -> None:
        """Read each client to its end, which must come, and be one of the words."""
        while self.clients:
            with self.clients.pop() as client:
                try:
                    said = rest(client)
                except ConnectionResetError:
                    said = b""
                assert said in words, said


TOLD = (FAREWELL,)
CUT = (b"",)


def _echoes(client: socket.socket) -> bool:
    client.sendall(b"still there?")
    return receive(client, 12) == b"still there?"


def _leave(clients: list[socket.socket]) -> None:
    """Close, when the server has closed too: it does not count the clients any more."""
    for client in clients:
        client.shutdown(socket.SHUT_WR)
        assert rest(client) == b""
        client.close()


def _is_late(client: socket.socket) -> bool:
    return client.family == socket.AF_INET and client.getpeername()[0] == LATE_ADDRESS


def copy_packages(machine: Machine, *packages: Packages) -> None:
    """Put the packages where `World.change_version` finds them."""
    for deb in (deb for each in packages for deb in each):
        machine.copy_to(Path(deb), f"/var/tmp/{deb.name}")
