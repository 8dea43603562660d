"""Starting: not done before clients are served, and one clear line when it cannot be done."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from device.service import (
    CLAIM_GRANTED,
    FAREWELL,
    PID_FILE,
    PORT,
    UNIT,
    Service,
    is_message,
    receive,
    rest,
)
from rigging import CommandError, Device, Record
from rigging.errors import PATIENCE
from rigging.streams import LineStream

GATE = "/var/tmp/graced-gate"

# A handler that holds the daemon up between its fork and its READY=1 until the test opens a gate.
GATED_HANDLER = """
import os, socketserver

class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(self.request.recv(64))

waited = False

def wait():
    global waited
    if not waited:  # by the first process, which the others come from
        waited = True
        with open("/var/tmp/graced-gate", "rb") as gate:
            gate.read()

os.register_at_fork(after_in_child=wait)
"""

# Another process with a pidfile.
LOCK = """
import fcntl, sys
with open(sys.argv[1], "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("locked", flush=True)
    sys.stdin.read()
"""

# Somebody else on a port.
SQUATTER = """
import socket, sys
addresses = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
listeners = [
    socket.create_server((host, int(sys.argv[1])), family=family) for family, host in addresses
]
print("listening", flush=True)
sys.stdin.read()
"""


def test_start_blocks_until_daemon_is_ready(graced: Service) -> None:
    device = graced.device
    graced.stop()
    module = device.python("import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    module = f"{module}/graced_gate.py"
    device.remove(GATE)
    device.run("mkfifo", "--mode=644", GATE)
    device.write(module, GATED_HANDLER)
    graced.configure('[server]\nhandler = "graced_gate:Handler"\n')
    graced.drop_in("[Service]\nPrivateTmp=no\n")
    start = device.popen("systemctl", "start", UNIT)
    try:
        # Opening the gate for writing blocks until the daemon stands before it.
        hold = device.popen("sh", "-ec", f"exec 3>{GATE}; echo held; read answer")
        with LineStream(hold, device.end) as holding:
            assert holding.line(time.monotonic() + PATIENCE) == "held"
            assert graced.show("ActiveState")["ActiveState"] == "activating"
            assert start.poll() is None
        output, _ = start.communicate(timeout=30)
        assert (start.returncode, output) == (0, b"")
        assert graced.show("ActiveState")["ActiveState"] == "active"
        with device.connect(PORT) as client:
            client.sendall(b"ready")
            assert client.recv(64) == b"ready"
    finally:
        device.end(start)
        device.remove(GATE, module)


def failed_start(graced: Service, status: str) -> tuple[list[Record], str]:
    """Start it in vain; returns graced's records and systemd's last word, checked for a storm."""
    with pytest.raises(CommandError):
        graced.start()
    state = graced.show("ActiveState", "Result", "NRestarts", "ExecMainStatus", "MainPID")
    assert state == {
        "ActiveState": "failed",
        "Result": "exit-code",
        "NRestarts": "0",
        "ExecMainStatus": status,
        "MainPID": "0",
    }
    records = graced.journal()
    texts = "\n".join(record["MESSAGE"] for record in records)
    assert "Traceback" not in texts
    assert "Scheduled restart job" not in texts
    return [r for r in records if r.get("SYSLOG_IDENTIFIER") == "graced"], texts


@contextmanager
def squatting(device: Device) -> Iterator[None]:
    """Another program has the port."""
    other = device.popen("python3", "-c", SQUATTER, str(PORT))
    with LineStream(other, device.end) as squatter:
        assert squatter.line(time.monotonic() + PATIENCE) == "listening"
        yield


def refused_start(graced: Service, status: str) -> str:
    """Start it in vain, for a reason that may pass; return the reason, which is the only record."""
    with graced.watch() as watch:
        with pytest.raises(CommandError, match="failed"):
            graced.start()
        (record,) = graced.own_records()
        assert record["PRIORITY"] <= "3"
        shown = watch.until(lambda unit: unit["ActiveState"] == "active")
    assert (shown["NRestarts"], shown["ExecMainStatus"]) == ("1", "0")
    texts = [each["MESSAGE"] for each in graced.journal()]
    assert any(f"status={status}/" in text for text in texts)
    reason = str(record["MESSAGE"]).removeprefix("cannot start: ")
    assert f"; {reason}, trying again" in shown["StatusText"]
    warnings = [r["MESSAGE"] for r in graced.own_records() if r["PRIORITY"] == "4"]
    assert [text.partition(";")[0] for text in warnings] == [reason]
    return reason


def test_busy_port_is_served_when_it_is_free(graced: Service) -> None:
    """`systemctl start` fails, and the service comes by itself."""
    graced.stop()
    graced.mark()
    with squatting(graced.device):
        reason = refused_start(graced, "69")
        assert reason == f"cannot listen on localhost:{PORT}: Address already in use"
        pid = graced.pid
    with graced.follow() as journal:
        journal.until(is_message(CLAIM_GRANTED))
    assert graced.echoes()
    assert graced.pid == pid
    (client,) = graced.connect()
    graced.restart()
    client.sendall(b"carried")
    assert receive(client, 7) == b"carried"
    assert graced.show("NRestarts", "Result") == {"NRestarts": "0", "Result": "success"}


def test_restart_into_busy_port_is_seen(graced: Service) -> None:
    """Also where the service waits for it already."""
    graced.stop()
    graced.mark()
    with squatting(graced.device):
        refused_start(graced, "69")
        with pytest.raises(CommandError, match="failed"):
            graced.restart()
        with graced.watch() as watch:
            watch.until(lambda unit: unit["ActiveState"] == "active")
        graced.stop()
        assert graced.show("ActiveState", "Result") == {
            "ActiveState": "inactive",
            "Result": "success",
        }


def test_pidfile_is_written_when_its_directory_is_there(graced: Service) -> None:
    graced.stop()
    graced.mark()
    graced.configure("[daemon]\npid_file = '/run/graced/later/pid'\n")
    reason = refused_start(graced, "73")
    assert reason == "cannot write pidfile /run/graced/later/pid: No such file or directory"
    assert graced.echoes()
    graced.device.run("install", "-d", "-o", "graced", "/run/graced/later")
    with graced.follow() as journal:
        journal.until(is_message(CLAIM_GRANTED))
    assert graced.device.read("/run/graced/later/pid") == f"{graced.pid}\n"


def test_other_instance_is_waited_for(graced: Service) -> None:
    """Another graced has the pidfile, and ends.

    Not that of ``PIDFile=``, which systemd removes after a start that was refused.
    """
    graced.stop()
    graced.mark()
    device = graced.device
    path = "/run/graced/own.pid"
    graced.configure(f"[daemon]\npid_file = '{path}'\n")
    device.run("install", "-d", "-o", "graced", "-g", "graced", "/run/graced")
    other = device.popen("runuser", "-u", "graced", "--", "python3", "-c", LOCK, path)
    with LineStream(other, device.end) as holding:
        assert holding.line(time.monotonic() + PATIENCE) == "locked"
        assert refused_start(graced, "75") == f"already running: {path} is locked"
    with graced.follow() as journal:
        journal.until(is_message(CLAIM_GRANTED))
    assert device.read(path) == f"{graced.pid}\n"
    graced.restart()
    assert graced.echoes()


def test_pidfile_without_room_costs_no_client(graced: Service) -> None:
    """At a restart; a file of no bytes is all that the new limit allows."""
    (client,) = graced.connect()
    graced.mark()
    graced.drop_in("[Service]\nLimitFSIZE=0\n")
    graced.restart()
    client.sendall(b"carried")
    assert receive(client, 7) == b"carried"
    assert (
        f"cannot write pidfile {PID_FILE}: File too large" in graced.show("StatusText").popitem()[1]
    )
    graced.stop()
    assert rest(client) == FAREWELL


def test_bad_configuration_is_status_78_and_one_line(graced: Service) -> None:
    graced.stop()
    graced.mark()
    graced.configure("[shutdown]\ngrace_periode = 5\n")
    records, texts = failed_start(graced, "78")
    assert "status=78/CONFIG" in texts
    (record,) = records
    for part in ("/etc/graced/conf.d/test-it.toml", "shutdown.grace_periode"):
        assert part in record["MESSAGE"]
