"""What a device does to a daemon: kills it, freezes it, starves it, restarts under it."""

import contextlib
from collections.abc import Iterator

import pytest

from device.service import (
    FAREWELL,
    PID_FILE,
    STARTED,
    STOPPED,
    UNIT,
    Service,
    is_message,
    receive,
    rest,
)
from rigging import CommandError, Machine

LISTENERS = 2
"""127.0.0.1 and ::1"""
FLAG = "/run/graced-fails"
MODULE = "/usr/lib/python3/dist-packages/graced_faulty.py"
FAULTY = f"""
import os
from socketserver import BaseRequestHandler

from graced.loop.io_thread import IOThread


class Echo(BaseRequestHandler):
    farewell = b"SHUTDOWN"

    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)


def fail(self):
    raise RuntimeError("can't start new thread")


def after_fork():
    if os.path.exists("{FLAG}"):
        IOThread.start = fail


os.register_at_fork(after_in_child=after_fork)
"""


@pytest.fixture
def faulty(graced: Service) -> Iterator[Service]:
    """A service that is stopped, and fails after the fork of its start while `FLAG` exists."""
    graced.stop()
    graced.device.write(MODULE, FAULTY)
    graced.configure('[server]\nhandler = "graced_faulty:Echo"\n')
    graced.drop_in("[Service]\nRestartSec=500ms\n")
    graced.mark()
    try:
        yield graced
    finally:
        graced.device.run("rm", "-f", MODULE, FLAG)


def break_start(graced: Service) -> None:
    """Let each start fail from now on."""
    graced.device.write(FLAG, "")


def stored(graced: Service) -> int:
    """Descriptors in the store."""
    return int(graced.show("NFileDescriptorStore")["NFileDescriptorStore"])


def await_restart(graced: Service, pid: int) -> None:
    """Return when the service runs again, in a new process, and serves."""
    with graced.watch() as watch:
        state = watch.until(
            lambda unit: unit["NRestarts"] == "1" and unit["ActiveState"] == "active"
        )
    assert state["MainPID"] not in ("0", str(pid))
    assert graced.device.read(PID_FILE).split() == [state["MainPID"]]
    assert graced.echoes()


@pytest.mark.every_kernel
def test_killed_daemon_comes_back(graced: Service) -> None:
    pid = graced.pid
    graced.device.systemctl("kill", "--signal=SIGKILL", UNIT)
    await_restart(graced, pid)


def test_failed_start_changes_nothing_in_store(faulty: Service) -> None:
    """A client that connects meanwhile waits for the start that succeeds."""
    faulty.start()
    (client,) = faulty.connect()
    with faulty.follow() as journal:
        journal.until(is_message(STARTED))
    before = stored(faulty)
    assert before == LISTENERS + 1
    break_start(faulty)
    faulty.device.systemctl("kill", "--signal=SIGKILL", UNIT)
    with faulty.watch() as watch:
        watch.until(lambda unit: int(unit["NRestarts"]) >= 3)
    assert stored(faulty) == before
    (queued,) = faulty.knock(1)
    faulty.device.run("rm", FLAG)
    queued.sendall(b"at last")
    assert receive(queued, 7) == b"at last"
    with faulty.watch() as watch:
        watch.until(lambda unit: unit["ActiveState"] == "active")
    assert rest(client) == b""


def test_failed_first_start_leaves_nothing_in_store(faulty: Service) -> None:
    break_start(faulty)
    assert stored(faulty) == 0
    with pytest.raises(CommandError):
        faulty.start()
    with faulty.watch() as watch:
        watch.until(lambda unit: int(unit["NRestarts"]) >= 3)
    assert stored(faulty) == 0
    with pytest.raises(ConnectionRefusedError):
        faulty.knock(1)
    faulty.device.run("rm", FLAG)
    with faulty.watch() as watch:
        watch.until(lambda unit: unit["ActiveState"] == "active")
    assert faulty.echoes()


def test_stale_pid_file_does_not_matter(graced: Service) -> None:
    device = graced.device
    graced.stop()
    graced.mark()
    device.systemctl("reset-failed", check=False)
    device.run("systemd-run", "--unit=test-foreign", "--property=Type=exec", "sleep", "infinity")
    try:
        foreign = device.show("test-foreign.service", "MainPID", "NRestarts")
        # systemd removes the file and its directory with the service. On a disk it survives a power
        # cut, and its pid may be somebody else's afterwards.
        graced.drop_in("[Service]\nRuntimeDirectoryPreserve=yes\n")
        graced.start()
        graced.stop()
        write = f"echo {foreign['MainPID']} >{PID_FILE}"
        device.run(
            "setpriv", "--reuid=graced", "--regid=graced", "--clear-groups", "sh", "-ec", write
        )
        graced.start()
        assert device.read(PID_FILE).split() == [str(graced.pid)]
        assert str(graced.pid) != foreign["MainPID"]
        assert graced.echoes()
        graced.stop()
        assert device.show("test-foreign.service", "MainPID", "NRestarts") == foreign
        assert not device.exists(PID_FILE)
    finally:
        device.systemctl("stop", "test-foreign.service")
        device.run("rm", "-rf", "/run/graced")


def test_watchdog_restarts_frozen_daemon(graced: Service) -> None:
    # As shipped it takes half a minute; what is tested is who feeds it.
    graced.drop_in("[Service]\nWatchdogSec=2\n")
    graced.restart()
    pid = graced.pid
    graced.device.systemctl("kill", "--signal=SIGSTOP", UNIT)
    await_restart(graced, pid)
    assert "Watchdog timeout" in "\n".join(r["MESSAGE"] for r in graced.journal())


def test_watchdog_leaves_idle_daemon_alone(graced: Service) -> None:
    graced.drop_in("[Service]\nWatchdogSec=1\n")
    graced.restart()
    before = graced.show("MainPID", "NRestarts")
    # Nothing is waited for here: what is tested is that time may pass.
    graced.device.run("sleep", "3")
    assert graced.show("MainPID", "NRestarts") == before
    assert graced.echoes()


def test_service_starts_again_when_out_of_memory(graced: Service, booted: Machine) -> None:
    pid = graced.pid
    with booted.out_of_memory(UNIT):
        # Each needs memory that the daemon does not get; the later ones may find it gone.
        with contextlib.suppress(ConnectionError):
            graced.knock(200)
        await_restart(graced, pid)


@pytest.mark.every_kernel
def test_reboot_tells_clients_and_starts_service_again(graced: Service, booted: Machine) -> None:
    (client,) = graced.connect()
    booted.reboot()
    with client:
        assert rest(client) == FAREWELL
    assert graced.show("ActiveState")["ActiveState"] == "active"
    assert graced.echoes()
    *_, stopped = booted.journal(f"MESSAGE_ID={STOPPED}", "--boot=-1", unit=UNIT)
    assert stopped["GRACED_CLIENTS_CLOSED"] == "1"
