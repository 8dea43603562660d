"""A second package brings a handler; one line in conf.d puts it into service."""

import subprocess
import threading
from pathlib import Path

import pytest

from device import CHECKOUT
from device.packages import Packages
from device.restarting import STOPPED_WELL, await_state
from device.service import PORT, UNIT, Service, receive, rest
from rigging import Machine

CONFIG = "/etc/graced/conf.d/upper.toml"


def install_example(machine: Machine, debs: Packages, tmp_path: Path) -> Service:
    """A service with the handler of the example package."""
    build = CHECKOUT / "tests" / "device" / "example-handler" / "build"
    subprocess.run(["sh", str(build), str(tmp_path)], check=True)
    (example,) = tmp_path.glob("*.deb")
    machine.install(*debs, example)
    graced = Service(machine)
    assert graced.echoes()
    shipped = machine.read(CONFIG)
    (line,) = [line for line in shipped.splitlines() if "handler" in line]
    machine.write(CONFIG, shipped.replace(line, 'handler = "upper"'))
    machine.systemctl("restart", UNIT)
    return graced


def test_handler_from_another_package(machine: Machine, debs: Packages, tmp_path: Path) -> None:
    install_example(machine, debs, tmp_path)
    with machine.connect(PORT) as client:
        client.sendall(b"whisper\n")
        assert receive(client, 8) == b"WHISPER\n"
        machine.systemctl("stop", "--no-block", UNIT)
        assert rest(client) == b""


@pytest.mark.parametrize("verb", ["stop", "restart"])
def test_answers_under_way_are_whole(
    machine: Machine, debs: Packages, tmp_path: Path, verb: str
) -> None:
    """Clients at rest go at once; at a restart a client that has said nothing stays."""
    graced = install_example(machine, debs, tmp_path)
    question = b"".join(b"%099998dx\n" % number for number in range(160))
    with (
        machine.connect(PORT) as silent,
        machine.connect(PORT) as resting,
        machine.connect(PORT) as half,
        machine.connect(PORT) as busy,
    ):
        for client in (resting, half):
            client.sendall(b"whisper\n")
            assert receive(client, 8) == b"WHISPER\n"
        asker = threading.Thread(target=busy.sendall, args=(question,))
        asker.start()
        answer = bytearray(receive(busy, 1000))
        half.sendall(b"whi")
        machine.systemctl(verb, "--no-block", UNIT)
        assert rest(resting) == b""
        half.sendall(b"sper\n")
        assert receive(half, 8) == b"WHISPER\n"
        assert rest(half) == b""
        while len(answer) < len(question) and (more := receive(busy, 1 << 16)):
            answer += more
        asker.join()
        assert answer == question.upper()
        assert rest(busy) == b""
        for client in (resting, half, busy):
            client.close()
        if verb == "stop":
            assert rest(silent) == b""
            await_state(graced, STOPPED_WELL)
        else:
            silent.sendall(b"whisper\n")
            assert receive(silent, 8) == b"WHISPER\n"
