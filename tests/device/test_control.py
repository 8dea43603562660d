"""The control socket in the sandbox of the unit, asked by gracectl and by systemd's varlinkctl."""

import json
import subprocess

import pytest

from device.service import FAREWELL, UNIT, Service, receive
from rigging import Device

SOCKET = "/run/graced/control"
PACKAGE = "/usr/lib/python3/dist-packages/graced/control"
CONTROL = "io.graced.Control"
SECOND = "/etc/graced/second.toml"
MORE = ("--json=short", "--more")
RECORD_SEPARATOR = "\x1e"
"""Begins each of several objects (RFC 7464)."""
VARLINKCTL = 257
"""The first release of systemd that ships it."""


def varlinkctl(device: Device, *words: str) -> subprocess.CompletedProcess[str]:
    return device.run("varlinkctl", "--no-pager", *words, check=False)


def has_varlinkctl(device: Device) -> bool:
    """Debian 13 has it, Debian 12 has not."""
    version = int(device.run("systemctl", "--version").stdout.split()[1].split(".")[0])
    return version >= VARLINKCTL


def status(device: Device, *words: str) -> dict[str, object]:
    found = json.loads(device.run("gracectl", *words, "status", "--json").stdout)
    assert isinstance(found, dict)
    return found


def as_user(device: Device, *words: str) -> subprocess.CompletedProcess[str]:
    return device.run("setpriv", *words, "gracectl", "status", check=False)


def test_varlinkctl_introspects_and_calls_everything(graced: Service) -> None:
    device = graced.device
    graced.connect(3)
    if not has_varlinkctl(device):
        assert not device.exists("/usr/bin/varlinkctl")
        assert status(device)["clients"] == 3
        return
    info = varlinkctl(device, "info", SOCKET)
    assert (info.returncode, info.stderr) == (0, "")
    assert CONTROL in info.stdout
    listed = varlinkctl(device, "list-interfaces", SOCKET)
    assert set(listed.stdout.split()) == {CONTROL, "org.varlink.service"}
    for name in listed.stdout.split():
        shown = varlinkctl(device, "introspect", SOCKET, name)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert f"interface {name}" in shown.stdout
        valid = varlinkctl(device, "validate-idl", f"{PACKAGE}/{name}.varlink")
        assert (valid.returncode, valid.stderr) == (0, "")
    called = varlinkctl(device, "--json=short", "call", SOCKET, f"{CONTROL}.Status", "{}")
    assert (called.returncode, called.stderr) == (0, "")
    assert json.loads(called.stdout)["clients"] == 3
    words = (*MORE, "call", SOCKET, f"{CONTROL}.ListClients")
    rows = []
    listed = varlinkctl(device, *words, '{"host":"127.0.0.1"}')
    for text in filter(None, listed.stdout.split(RECORD_SEPARATOR)):
        rows += json.loads(text)["clients"]
    assert [(row["sent"], row["phase"]) for row in rows] == [(1, "active")] * 3
    failed = varlinkctl(device, *words, '{"host":"nowhere"}')
    assert failed.returncode != 0
    assert "org.varlink.service.InvalidParameter" in failed.stderr
    failed = varlinkctl(device, "call", SOCKET, f"{CONTROL}.ListClients", "{}")
    assert "org.varlink.service.ExpectedMore" in failed.stderr
    called = varlinkctl(device, "--json=short", "call", SOCKET, f"{CONTROL}.Metrics", "{}")
    assert json.loads(called.stdout)["metrics"]
    called = varlinkctl(
        device, "--json=short", "call", SOCKET, f"{CONTROL}.SetLogLevel", '{"level":"info"}'
    )
    assert json.loads(called.stdout) == {"before": "info"}
    chosen = json.dumps({"client": rows[1]["client"]})
    told = varlinkctl(device, "--json=short", "call", SOCKET, f"{CONTROL}.TellClients", chosen)
    assert json.loads(told.stdout) == {"told": 1}
    chosen = json.dumps({"client": rows[0]["client"]})
    closed = varlinkctl(device, "--json=short", "call", SOCKET, f"{CONTROL}.CloseClients", chosen)
    assert json.loads(closed.stdout) == {"closed": 1}
    drained = varlinkctl(device, *MORE, "call", SOCKET, f"{CONTROL}.Drain", "{}")
    assert json.loads(drained.stdout.split(RECORD_SEPARATOR)[-1])["ended"]


def test_drain_is_a_stop(graced: Service) -> None:
    device = graced.device
    (client,) = graced.connect()
    with graced.watch() as watch:
        done = device.run("gracectl", "drain", check=False)
        watch.until(lambda unit: unit["ActiveState"] == "inactive")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.endswith("stopped: 0 clients departed, 1 closed at the deadline\n")
    assert receive(client, 9) == FAREWELL
    assert graced.show("Result", "NRestarts") == {"Result": "success", "NRestarts": "0"}


def test_socket_is_for_root_and_group_alone(graced: Service) -> None:
    device = graced.device
    assert device.run("stat", "--format=%a %U %G", SOCKET).stdout == "660 graced graced\n"
    nobody = ("--reuid=65534", "--regid=65534")
    refused = as_user(device, *nobody, "--clear-groups")
    assert (refused.returncode, refused.stdout) == (77, "")
    assert refused.stderr == (
        f"gracectl: not permitted to ask at {SOCKET}: be root or in its group\n"
    )
    # The mode of the file is not all that protects it.
    device.run("chmod", "666", SOCKET)
    assert as_user(device, *nobody, "--clear-groups").stderr == refused.stderr
    # The group may look and not act.
    ordered = device.run(
        *("setpriv", "--reuid=65534", "--regid=65534", "--groups=graced", "gracectl", "drain"),
        check=False,
    )
    assert (ordered.returncode, ordered.stdout) == (77, "")
    for allowed in (
        ("--regid=65534", "--groups=graced"),
        ("--regid=graced", "--clear-groups"),
    ):
        done = as_user(device, "--reuid=65534", *allowed)
        assert (done.returncode, done.stderr) == (0, "")
    graced.restart()
    assert device.run("stat", "--format=%a", SOCKET).stdout == "660\n"


def test_restart_and_crash_bind_it_anew(graced: Service) -> None:
    device = graced.device
    (client,) = graced.connect()
    before = status(device)
    graced.restart()
    after = status(device)
    assert after["pid"] == graced.pid != before["pid"]
    assert (after["clients"], after["admitted"]) == (1, before["admitted"])
    assert after["inherited"]
    with graced.watch() as watch:
        device.systemctl("kill", "--kill-whom=main", "--signal=KILL", UNIT)
        pid = str(after["pid"])
        watch.until(lambda unit: unit["ActiveState"] == "active" and unit["MainPID"] != pid)
    assert status(device)["pid"] == graced.pid
    graced.stop()
    assert not device.exists(SOCKET)
    stopped = device.run("gracectl", "status", check=False)
    assert (stopped.returncode, stopped.stdout, stopped.stderr.count("\n")) == (69, "", 1)
    client.close()


@pytest.fixture
def second(graced: Service) -> str:
    """An instance, beside the main service."""
    device = graced.device
    device.write(SECOND, "[server]\nlisten = ['localhost:9997']\nhandler = 'echo-threaded'\n")
    device.systemctl("start", "graced@second")
    return "second"


def test_instance_has_its_own(graced: Service, second: str) -> None:
    device = graced.device
    try:
        graced.connect(2)
        with device.connect(9997) as client:
            client.sendall(b"?")
            assert client.recv(1) == b"?"
            found = status(device, "-i", second)
            assert (found["name"], found["clients"]) == ("graced@second", 1)
            assert status(device)["clients"] == 2
            listed = device.run("gracectl", "-i", second, "clients").stdout
            assert "in_handler" in listed
    finally:
        device.systemctl("stop", "graced@second")
        device.remove(SECOND)


def test_metrics_are_written_for_the_node_exporter(graced: Service, second: str) -> None:
    device = graced.device
    directory = "/var/lib/prometheus/node-exporter"
    for name, suffix in (("graced", ""), (f"graced@{second}", f"@{second}")):
        unit = f"graced-metrics{suffix}"
        path = f"{directory}/{name}.prom"
        enabled = device.run("systemctl", "is-enabled", f"{unit}.timer", check=False)
        assert enabled.stdout == "disabled\n"
        # Without the node exporter it does nothing.
        device.systemctl("start", f"{unit}.service")
        assert not device.exists(path)
    device.run("mkdir", "--parents", directory)
    try:
        for name, suffix in (("graced", ""), (f"graced@{second}", f"@{second}")):
            unit = f"graced-metrics{suffix}"
            device.systemctl("start", f"{unit}.timer")
            device.systemctl("start", f"{unit}.service")
            text = device.read(f"{directory}/{name}.prom")
            assert f'graced_up{{service="{name}"}} 1\n' in text
            device.systemctl("stop", f"{name}.service")
            device.systemctl("start", f"{unit}.service")
            text = device.read(f"{directory}/{name}.prom")
            assert f'graced_up{{service="{name}"}} 0\n' in text
            device.systemctl("stop", f"{unit}.timer")
        listed = device.run("ls", "-l", directory).stdout
        assert listed.count("-rw-r--r--") == 2
    finally:
        device.run("rm", "-r", directory)
        device.systemctl("stop", f"graced@{second}")
        device.remove(SECOND)
        device.systemctl("start", "graced")


def test_kernel_names_the_socket_by_its_path(graced: Service) -> None:
    device = graced.device
    for order in ("restart", "kill --kill-whom=main --signal=KILL"):
        pid = str(graced.pid)

        def is_another(unit: dict[str, str], pid: str = pid) -> bool:
            return unit["ActiveState"] == "active" and unit["MainPID"] != pid

        with graced.watch() as watch:
            device.systemctl(*order.split(), UNIT)
            watch.until(is_another)
        listed = device.read("/proc/net/unix")
        assert f" {SOCKET}\n" in listed
        assert f"{SOCKET}.new" not in listed
