"""What a device does to a daemon: kills it, freezes it, starves it, restarts under it."""

import contextlib

from device.packages import Packages
from device.service import FAREWELL, PID_FILE, STOPPED, UNIT, Service, rest
from rigging import Machine


def await_restart(graced: Service, pid: int) -> None:
    """Return when the service runs again, in a new process, and serves."""
    with graced.watch() as watch:
        state = watch.until(
            lambda unit: unit["NRestarts"] == "1" and unit["ActiveState"] == "active"
        )
    assert state["MainPID"] not in ("0", str(pid))
    assert graced.device.read(PID_FILE).split() == [state["MainPID"]]
    assert graced.echoes()


def test_a_killed_daemon_comes_back(graced: Service) -> None:
    pid = graced.pid
    graced.device.systemctl("kill", "--signal=SIGKILL", UNIT)
    await_restart(graced, pid)


def test_a_stale_pid_file_does_not_matter(graced: Service) -> None:
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


def test_the_watchdog_restarts_a_frozen_daemon(graced: Service) -> None:
    # As shipped it takes half a minute; what is tested is who feeds it.
    graced.drop_in("[Service]\nWatchdogSec=2\n")
    graced.restart()
    pid = graced.pid
    graced.device.systemctl("kill", "--signal=SIGSTOP", UNIT)
    await_restart(graced, pid)
    assert "Watchdog timeout" in "\n".join(r["MESSAGE"] for r in graced.journal())


def test_the_watchdog_leaves_an_idle_daemon_alone(graced: Service) -> None:
    graced.drop_in("[Service]\nWatchdogSec=1\n")
    graced.restart()
    before = graced.show("MainPID", "NRestarts")
    # Nothing is waited for here: what is tested is that time may pass.
    graced.device.run("sleep", "3")
    assert graced.show("MainPID", "NRestarts") == before
    assert graced.echoes()


def test_out_of_memory_restarts_it(graced: Service, booted: Machine) -> None:
    pid = graced.pid
    with booted.out_of_memory(UNIT):
        # Each needs memory that the daemon does not get; the later ones may find it gone.
        with contextlib.suppress(ConnectionError):
            graced.knock(200)
        await_restart(graced, pid)


def test_a_reboot_says_goodbye_and_brings_it_back(machine: Machine, debs: Packages) -> None:
    machine.install(*debs)
    graced = Service(machine)
    (client,) = graced.connect()
    machine.reboot()
    with client:
        assert rest(client) == FAREWELL
    assert graced.show("ActiveState")["ActiveState"] == "active"
    assert graced.echoes()
    (stopped,) = machine.journal(f"MESSAGE_ID={STOPPED}", "--boot=-1", unit=UNIT)
    assert stopped["GRACED_CLIENTS_CLOSED"] == "1"
