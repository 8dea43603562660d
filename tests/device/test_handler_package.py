"""The example: a package with a handler, its options, and a service of its own."""

import threading
from pathlib import Path

import pytest

from device.example import PORTS, build_example
from device.packages import Packages
from device.service import Service, receive, rest
from rigging import CommandError, Machine

UNIT = "graced@upper.service"
PORT = PORTS["upper"]
DROP_IN = "/etc/graced/upper.d/local.toml"
TOTAL = "/var/lib/graced@upper/total"


@pytest.mark.parametrize("handler", ["upper", "upper-blocking"])
def test_service_of_a_handler_package(
    machine: Machine, debs: Packages, handler: str, tmp_path: Path
) -> None:
    machine.install(*debs, build_example(tmp_path))
    state = machine.show(UNIT, "ActiveState", "UnitFileState")
    assert state == {"ActiveState": "active", "UnitFileState": "enabled"}
    described = machine.run("graced", "-i", "upper", "--describe").stdout
    assert described.endswith(
        '#prefix = ""\n# bytes of the longest line, its end included: a'
        " whole number from 1 to 65536.\n#longest = 1024\n"
    )

    machine.write(DROP_IN, f"[server]\nhandler = '{handler}'\n[handler]\nlongest = 0\n")
    with pytest.raises(CommandError) as refused:
        machine.run("graced", "--instance", "upper", "--check-config")
    assert refused.value.result.returncode == 78
    assert refused.value.result.stderr == (
        f"graced: {DROP_IN}: handler.longest must be from 1 to 65536, not 0\n"
    )

    machine.write(DROP_IN, f"[server]\nhandler = '{handler}'\n[handler]\nprefix = '> '\n")
    checked = machine.run("graced", "-i", "upper", "-t").stdout
    assert checked.splitlines() == [
        "graced: configuration is valid, graced@upper.service would serve localhost:9998",
    ]
    printed = machine.run("graced", "-i", "upper", "--print-config").stdout
    assert f'prefix = "> "  # {DROP_IN}' in printed
    assert 'pid_file = "/run/graced@upper/graced.pid"  # default' in printed
    machine.systemctl("restart", UNIT)
    with machine.connect(PORT) as client:
        client.sendall(b"whisper\nand ")
        assert receive(client, 10) == b"> WHISPER\n"
        pid = machine.show(UNIT, "MainPID")["MainPID"]
        assert machine.read("/run/graced@upper/graced.pid").split() == [pid]
        # The client, with its half a line, and the count of lines.
        machine.systemctl("restart", UNIT)
        assert machine.show(UNIT, "MainPID")["MainPID"] != pid
        client.sendall(b"shout\n")
        assert receive(client, 12) == b"> AND SHOUT\n"
        machine.systemctl("stop", "--no-block", UNIT)
        assert rest(client) == b""
    machine.systemctl("stop", UNIT)
    assert machine.read(TOTAL) == "2\n"
    own = machine.run("journalctl", "--output=cat", "--identifier=graced@upper").stdout
    assert "inherited 1 client" in own
    assert "stopped after" in own
    assert Service(machine).echoes(), "the main service has noticed"


def test_removed_package_comes_back(machine: Machine, debs: Packages, tmp_path: Path) -> None:
    package = build_example(tmp_path)
    machine.install(*debs, package)
    machine.run("apt-get", "remove", "--yes", "graced-upper")
    # Its configuration is there, and no boot tries to start it.
    assert machine.exists("/etc/graced/upper.toml")
    assert machine.show(UNIT, "LoadState", "ActiveState") == {
        "LoadState": "masked",
        "ActiveState": "inactive",
    }
    machine.install(package)
    assert machine.show(UNIT, "LoadState", "ActiveState", "UnitFileState") == {
        "LoadState": "loaded",
        "ActiveState": "active",
        "UnitFileState": "enabled",
    }


def test_stopped_service_stays_stopped(machine: Machine, debs: Packages, tmp_path: Path) -> None:
    machine.install(*debs, build_example(tmp_path))
    machine.systemctl("disable", "--now", UNIT)
    machine.install(build_example(tmp_path, version="1.1"))
    assert machine.show(UNIT, "ActiveState", "UnitFileState") == {
        "ActiveState": "inactive",
        "UnitFileState": "disabled",
    }


def test_upgrade_that_would_not_start_is_refused(
    machine: Machine, debs: Packages, tmp_path: Path
) -> None:
    machine.install(*debs, build_example(tmp_path))
    with machine.connect(PORT) as client:
        client.sendall(b"a\n")
        assert receive(client, 2) == b"A\n"
        pid = machine.show(UNIT, "MainPID")
        machine.write(DROP_IN, "[handler]\nsuffix = 'x'\n")
        with pytest.raises(CommandError) as refused:
            machine.install(build_example(tmp_path, version="1.1"))
        text = refused.value.result.stdout + refused.value.result.stderr
        assert f"{DROP_IN}: unknown key 'handler.suffix', allowed in [handler]" in text
        assert "goes on serving" in text
        client.sendall(b"b\n")
        assert receive(client, 2) == b"B\n"
        assert machine.show(UNIT, "MainPID") == pid
        machine.remove(DROP_IN)
        machine.run("dpkg", "--configure", "-a")
        client.sendall(b"c\n")
        assert receive(client, 2) == b"C\n"
        assert machine.show(UNIT, "MainPID") != pid


@pytest.mark.parametrize("verb", ["stop", "restart"])
def test_answers_under_way_are_whole(
    machine: Machine, debs: Packages, tmp_path: Path, verb: str
) -> None:
    """At a stop clients at rest go at once, and at a restart all stay."""
    machine.install(*debs, build_example(tmp_path))
    machine.write(DROP_IN, "[server]\nhandler = 'upper-blocking'\n[handler]\nlongest = 65536\n")
    machine.systemctl("restart", UNIT)
    question = b"".join(b"%059998dx\n" % number for number in range(260))
    with (
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
        if verb == "stop":
            assert rest(resting) == b""
        half.sendall(b"sper\n")
        assert receive(half, 8) == b"WHISPER\n"
        answer += receive(busy, len(question) - len(answer))
        asker.join()
        assert answer == question.upper()
        if verb == "restart":
            machine.systemctl("restart", UNIT)
            for client in (resting, half, busy):
                client.sendall(b"still there\n")
                assert receive(client, 12) == b"STILL THERE\n"
            return
        for client in (half, busy):
            assert rest(client) == b""
    machine.systemctl("stop", UNIT)
    assert machine.show(UNIT, "Result") == {"Result": "success"}
