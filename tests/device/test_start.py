"""Starting: not done before clients are served, and one clear line when it cannot be done."""

import os
import socket
from pathlib import Path

import pytest

from device.service import PORT, UNIT, Service
from rigging import CommandError, Record

# A handler that holds the daemon up between its fork and its READY=1 until the test opens a gate.
GATE = """
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


def test_start_blocks_until_the_daemon_is_ready(graced: Service) -> None:
    device = graced.device
    graced.stop()
    module = device.python("import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    module = f"{module}/graced_gate.py"
    gate = device.path("/var/tmp/graced-gate")
    gate.unlink(missing_ok=True)
    os.mkfifo(gate)
    gate.chmod(0o644)
    device.write(module, GATE)
    graced.configure('[server]\nhandler = "graced_gate:Handler"\n')
    graced.drop_in("[Service]\nPrivateTmp=no\n")
    start = device.popen("systemctl", "start", UNIT)
    try:
        # Opening the gate for writing blocks until the daemon stands before it.
        with Path(gate).open("wb"):
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
        gate.unlink()
        device.path(module).unlink()


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

    def occupy() -> list[socket.socket]:
        return [
            socket.create_server(("127.0.0.1", PORT)),
            socket.create_server(("::1", PORT), family=socket.AF_INET6),
        ]

    others = graced.device.inside(occupy)
    try:
        records, _ = failed_start(graced, "69")
    finally:
        for other in others:
            other.close()
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
