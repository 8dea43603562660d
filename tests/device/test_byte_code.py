"""Byte code that a power cut has damaged, in every module that a start needs."""

import re

from device.packages import MODULES, Packages
from device.service import Service
from rigging import Machine
from support.damage import DAMAGES

# All that Python has compiled and that is not its own: graced, python-daemon, sdnotify, lockfile.
FIND = """
import pathlib
for path in pathlib.Path("/usr/lib/python3/dist-packages").rglob("*.pyc"):
    print(path)
"""


# Python's own, without what it imports before it runs a program.
FIND_PYTHONS = """
import pathlib, sys
early = {getattr(module, "__cached__", None) for module in sys.modules.values()}
for path in pathlib.Path(sys.modules["encodings"].__file__).parents[1].rglob("*.pyc"):
    if str(path) not in early and "/encodings/" not in str(path):
        print(path)
"""


def files(machine: Machine) -> list[str]:
    """The byte code on the device."""
    return machine.python(FIND).split()


def test_every_kind_of_damage_to_everything_at_once(machine: Machine, debs: Packages) -> None:
    machine.install(*debs)
    graced = Service(machine)
    sound = {path: machine.read_bytes(path) for path in files(machine)}
    assert len(sound) > 40
    (client,) = graced.connect()
    with client:
        for name, damage in DAMAGES.items():
            for path, data in sound.items():
                machine.write_bytes(path, damage(data))
            graced.mark()
            graced.restart()
            client.sendall(b"!")
            assert client.recv(64) == b"!", name
            warnings = [r for r in graced.own_records() if int(r["PRIORITY"]) == 4]
            assert len(warnings) > 40, name
            machine.run("gracectl", "ping", "--count=1")


def test_byte_code_of_python_itself(machine: Machine, debs: Packages) -> None:
    machine.install(*debs)
    graced = Service(machine)
    pythons = machine.run("python3", "-Ic", FIND_PYTHONS).stdout.split()
    machine.run("truncate", "--size=-1", *pythons)
    graced.mark()
    graced.restart()
    assert graced.echoes()
    warnings = [r["MESSAGE"] for r in graced.own_records() if int(r["PRIORITY"]) == 4]
    (socket,) = [text for text in warnings if "/socket." in text]
    assert re.search(
        r"--reinstall PACKAGE \(see dpkg -S /usr/lib/python3\.[0-9]+/socket\.py\)$", socket
    )


def test_remedy_in_log_works(machine: Machine, debs: Packages) -> None:
    machine.install(*debs)
    graced = Service(machine)
    (path,) = [path for path in files(machine) if "/poller." in path]
    data = machine.read_bytes(path)
    machine.write_bytes(path, data[:-9])
    graced.mark()
    graced.restart()
    (warning,) = [r["MESSAGE"] for r in graced.own_records() if int(r["PRIORITY"]) == 4]
    assert warning.startswith(f"{path} is damaged (marshal data too short)")
    assert warning.endswith("apt-get install --reinstall python3-graced")
    machine.install(*debs, options=["--reinstall"])
    assert machine.read_bytes(path) == data
    graced.mark()
    graced.restart()
    assert [r["MESSAGE"] for r in graced.own_records() if int(r["PRIORITY"]) <= 4] == []


def test_byte_code_is_on_disk_when_installation_is_over(machine: Machine, debs: Packages) -> None:
    machine.install(*debs)
    ours = [path for path in files(machine) if "/graced/" in path]
    configure = ("/var/lib/dpkg/info/python3-graced.postinst", "configure")
    synced = machine.run("strace", "-fy", "-e", "trace=fsync", *configure).stderr
    assert [path for path in ours if f"<{path}>)" not in synced] == []
    assert f"{MODULES}/__pycache__>)" in synced
