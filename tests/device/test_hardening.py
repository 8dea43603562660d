"""The units as systemd's own tools see them, and the service that has no network at all."""

import re

import pytest

from device.service import SOCKET_UNIT, UNIT, Service, receive, rest

# Exposure by systemd-analyze, 0 to 10.
AS_SHIPPED = 1.2
SOCKET_ACTIVATED = 0.4

DROP_IN = "/usr/share/doc/graced/examples/socket-activated.conf"
ECHO_PORT = 7


def exposure(graced: Service) -> float:
    """What systemd-analyze makes of the unit with its drop-ins."""
    report = graced.device.run("systemd-analyze", "security", "--no-pager", UNIT).stdout
    found = re.search(r"Overall exposure level for graced\.service: ([\d.]+)", report)
    assert found, report
    return float(found[1])


@pytest.fixture
def activated(graced: Service) -> Service:
    """The service behind its socket, switched on as the drop-in itself says."""
    device = graced.device
    directory = "/etc/systemd/system/graced.service.d"
    device.run("install", "-D", "--mode=644", DROP_IN, "-t", directory)
    device.systemctl("enable", SOCKET_UNIT)
    device.systemctl("restart", UNIT)
    return graced


def test_systemd_has_nothing_to_say_about_units(graced: Service) -> None:
    # Without man-db, which a device has not, it cannot look for the manual pages.
    verified = graced.device.run("systemd-analyze", "verify", "--man=no", UNIT, SOCKET_UNIT)
    assert (verified.stdout, verified.stderr) == ("", "")


def test_service_as_shipped_is_hardly_exposed(graced: Service) -> None:
    assert exposure(graced) <= AS_SHIPPED


def test_socket_activated_service_is_even_less_exposed(activated: Service) -> None:
    assert exposure(activated) <= SOCKET_ACTIVATED


def test_port_7_is_served_without_network(activated: Service) -> None:
    assert activated.echoes(ECHO_PORT)
    # All that the daemon can see of a network is a loopback that is down.
    devices = activated.device.read(f"/proc/{activated.pid}/net/dev").splitlines()
    assert [line.split(":")[0].strip() for line in devices[2:]] == ["lo"]


def test_client_that_connects_during_restart_is_served_by_next_start(activated: Service) -> None:
    (old,) = activated.connect(port=ECHO_PORT)
    pid = str(activated.pid)
    activated.device.systemctl("restart", "--no-block", UNIT)
    (new,) = activated.knock(port=ECHO_PORT)
    new.sendall(b"is somebody there?")
    with activated.watch() as watch:
        watch.until(lambda unit: unit["ActiveState"] == "active" and unit["MainPID"] != pid)
    for client in (old, new):
        client.sendall(b"still served")
    assert receive(new, 30) == b"is somebody there?still served"
    assert receive(old, 12) == b"still served"
    for client in (old, new):
        client.shutdown(1)
        assert rest(client) == b"", "somebody said goodbye"


def test_client_wakes_stopped_service(activated: Service) -> None:
    activated.device.systemctl("stop", UNIT)
    assert activated.echoes(ECHO_PORT)
    assert activated.show("ActiveState")["ActiveState"] == "active"
