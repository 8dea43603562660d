"""What the tests of restarts have in common: what a service holds, and what its clients hear."""

from __future__ import annotations

import select
import socket

from device.service import (
    FAREWELL,
    INHERITED,
    STARTED,
    UNIT,
    Service,
    is_message,
    receive,
    rest,
)
from rigging.device import JournalStream
from robustness.scale import scaled

STORMS = scaled(4, 60)
LISTENERS = 2
"""127.0.0.1 and ::1"""
MIRRORED = LISTENERS + 1
"""What is in the store all the time: the listeners, and the place for clients."""
SUCCESS = {"ActiveState": "active", "SubState": "running", "Result": "success"}
STOPPED_WELL = {"ActiveState": "inactive", "Result": "success"}
ECHO_PATH = "/run/graced/echo.sock"


def fields(graced: Service, message_id: str, field: str) -> list[int]:
    """A number of each record of a kind, oldest first."""
    return [int(record[field]) for record in graced.journal(f"MESSAGE_ID={message_id}")]


def await_start(graced: Service, journal: JournalStream) -> None:
    """Return when the present process has taken everything over: it says so then."""
    pid = str(graced.pid)
    journal.until(lambda r: r.get("MESSAGE_ID") == STARTED and r["_PID"] == pid)


def settle(graced: Service) -> None:
    """The same, for a test that does not follow the journal."""
    with graced.follow() as journal:
        await_start(graced, journal)


def end_of(client: socket.socket) -> bytes | str:
    """What a client hears up to its end, or how the connection broke."""
    try:
        return rest(client)
    except OSError as error:
        return str(error)


def leave_when_told(client: socket.socket) -> bytes | str:
    """What a client hears that leaves when it hears something."""
    try:
        heard = client.recv(64)
        if heard:
            client.shutdown(socket.SHUT_WR)
    except OSError as error:
        return str(error)
    end = end_of(client)
    return end if isinstance(end, str) else heard + end


def answers(client: socket.socket) -> bool:
    """Whether an echo is behind it."""
    client.sendall(b"still there?")
    return receive(client, 12) == b"still there?"


def kill(graced: Service, signal: str) -> None:
    """Send the daemon a signal, if there is a daemon."""
    graced.device.systemctl("kill", "--kill-who=main", f"--signal={signal}", UNIT, check=False)


def wait(seconds: float) -> None:
    """Let time pass, so that the next event comes at a random moment."""
    select.poll().poll(seconds * 1000)


class Footprint:
    """What the service holds: descriptors, memory in kB, and what systemd keeps for it."""

    def __init__(self, graced: Service) -> None:
        settle(graced)
        pid = graced.pid
        self.stored = int(graced.show("NFileDescriptorStore")["NFileDescriptorStore"])
        self.descriptors = len(graced.device.run("ls", f"/proc/{pid}/fd").stdout.split())
        status = graced.device.read(f"/proc/{pid}/status")
        (self.memory,) = [
            int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")
        ]

    def __repr__(self) -> str:
        return f"{self.descriptors} descriptors, {self.memory} kB, {self.stored} in the store"


def settle_restart(graced: Service, restarts: int = 1) -> None:
    """Return when as many restarts as that since the last ``mark`` are over."""
    with graced.follow() as journal:
        for _ in range(restarts):
            journal.until(is_message(INHERITED))
        journal.until(is_message(STARTED))


def await_state(graced: Service, wanted: dict[str, str]) -> None:
    """Return when the unit has no job and is as wanted; raises RigError where it never is."""
    wanted = wanted | {"Job": ""}
    with graced.watch() as watch:
        watch.until(lambda unit: {key: unit[key] for key in wanted} == wanted)


def assert_serves(graced: Service) -> None:
    """A new client is welcome, and the next stop goes as it should."""
    assert graced.echoes()
    (client,) = graced.connect()
    graced.restart()
    assert answers(client)
    graced.device.systemctl("stop", "--no-block", UNIT)
    assert receive(client, len(FAREWELL)) == FAREWELL
    client.shutdown(socket.SHUT_WR)
    assert rest(client) == b""
    await_state(graced, STOPPED_WELL)


def inode_of(graced: Service, path: str) -> str:
    """Which file it is that has the name."""
    return graced.device.run("stat", "--format=%i", path).stdout


def listen(graced: Service, *addresses: str) -> None:
    quoted = ", ".join(f'"{address}"' for address in addresses)
    graced.configure(f"[server]\nlisten = [{quoted}]\n")
