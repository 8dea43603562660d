"""Starting: not done before clients are served, and one clear line when it cannot be done."""

import time

import pytest

from device.service import PORT, UNIT, Service
from rigging import CommandError, Record
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


def test_start_blocks_until_the_daemon_is_ready(graced: Service) -> None:
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


def test_a_busy_port_is_status_69_and_one_line(graced: Service) -> None:
    graced.stop()
    graced.mark()

    other = graced.device.popen("python3", "-c", SQUATTER, str(PORT))
    with LineStream(other, graced.device.end) as squatter:
        assert squatter.line(time.monotonic() + PATIENCE) == "listening"
        records, _ = failed_start(graced, "69")
    (record,) = records
    assert str(PORT) in record["MESSAGE"]
    assert "in use" in record["MESSAGE"]
    assert record["PRIORITY"] <= "3"
    graced.start()
    assert graced.echoes()


def test_a_bad_configuration_is_status_78_and_one_line(graced: Service) -> None:
    graced.stop()
    graced.mark()
    graced.configure("[shutdown]\ngrace_periode = 5\n")
    records, texts = failed_start(graced, "78")
    assert "status=78/CONFIG" in texts
    (record,) = records
    for part in ("/etc/graced/conf.d/test-it.toml", "shutdown.grace_periode"):
        assert part in record["MESSAGE"]
