"""A second package brings a handler; one line in conf.d puts it into service."""

import subprocess
from pathlib import Path

from device import CHECKOUT
from device.packages import Packages
from device.service import PORT, Service, receive, rest
from rigging import Machine

CONFIG = "/etc/graced/conf.d/upper.toml"


def test_handler_from_another_package(machine: Machine, debs: Packages, tmp_path: Path) -> None:
    build = CHECKOUT / "tests" / "device" / "example-handler" / "build"
    subprocess.run(["sh", str(build), str(tmp_path)], check=True)
    (example,) = tmp_path.glob("*.deb")
    machine.install(*debs, example)
    graced = Service(machine)
    assert graced.echoes()
    shipped = machine.read(CONFIG)
    (line,) = [line for line in shipped.splitlines() if "handler" in line]
    machine.write(CONFIG, shipped.replace(line, 'handler = "upper"'))
    machine.systemctl("restart", "graced.service")
    with machine.connect(PORT) as client:
        client.sendall(b"whisper\n")
        assert receive(client, 8) == b"WHISPER\n"
        machine.systemctl("stop", "--no-block", "graced.service")
        assert rest(client) == b""
