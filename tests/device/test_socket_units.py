"""A socket unit that is not ours: of an administrator, with a name like one of graced."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from device.restarting import answers
from device.service import UNIT, Service
from rigging import CommandError

OWN = "graced-test.socket"
PORT = 9995


@pytest.fixture
def own_socket(graced: Service) -> Iterator[str]:
    """The path of the unit, which a test writes."""
    graced.stop()
    path = f"/etc/systemd/system/{OWN}"
    yield path
    device = graced.device
    device.systemctl("stop", OWN, UNIT, check=False)
    device.systemctl("reset-failed", OWN, UNIT, check=False)
    device.run("rm", path)
    device.systemctl("daemon-reload")


def listen(graced: Service, path: str, text: str) -> None:
    graced.device.write(path, f"[Socket]\n{text}\nService={UNIT}\n")
    graced.device.systemctl("daemon-reload")
    graced.device.systemctl("start", OWN)


def test_client_of_a_socket_unit_of_ones_own_is_served(graced: Service, own_socket: str) -> None:
    """It starts the service, stays connected at a restart, and can start the service again."""
    listen(graced, own_socket, f"ListenStream=[::]:{PORT}\nBindIPv6Only=both")
    graced.mark()
    (client,) = graced.connect(port=PORT)
    name = f"127.0.0.1:{client.getsockname()[1]}"
    assert graced.journal(f"GRACED_CLIENT={name}")
    assert not any("::ffff:" in each["MESSAGE"] for each in graced.own_records())
    graced.restart()
    assert answers(client)
    graced.device.systemctl("stop", "--no-block", UNIT)
    assert client.recv(64) == b"SHUTDOWN"
    client.close()
    with graced.watch() as watch:
        watch.until(lambda unit: unit["ActiveState"] == "inactive")
    assert graced.echoes(PORT)


def test_socket_unit_that_cannot_be_served_is_one_line(graced: Service, own_socket: str) -> None:
    listen(graced, own_socket, f"ListenDatagram=127.0.0.1:{PORT}")
    graced.mark()
    with pytest.raises(CommandError):
        graced.start()
    texts = [each["MESSAGE"] for each in graced.own_records()]
    reason = "passed descriptor 3 is no listening stream socket"
    assert any(reason in text for text in texts), texts
    assert not any("Traceback" in text for text in texts)
