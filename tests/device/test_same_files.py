"""Check, start, restart and upgrade read the same files in the same way; one notation of clients.

What an editor or dpkg leaves beside a drop-in is no drop-in.
"""

from __future__ import annotations

import re
import socket

import pytest

from device.service import PORT, SOCKET_UNIT, UNIT, Service
from device.test_check import VALID, answers, recipe

LEFT_BEHIND = ("60.toml~", "#60.toml#", ".60.toml", ".60.toml.swp", "60.toml.dpkg-new", "60.conf")
DROP_INS = "/etc/graced/conf.d"
POSTINST = "/var/lib/dpkg/info/graced.postinst"
OVERLAP = "[server]\nlisten = ['localhost:9999', '127.0.0.1:9999']\n"


@pytest.fixture
def left_behind(graced: Service) -> object:
    """Files that would be refused, and a link of Emacs to nothing."""
    run = graced.device.run
    for name in LEFT_BEHIND:
        graced.device.write(f"{DROP_INS}/{name}", "no such = key\n")
    run("ln", "-sf", "root@device.123:1", f"{DROP_INS}/.#60.toml")
    yield
    run("rm", *(f"{DROP_INS}/{name}" for name in (*LEFT_BEHIND, ".#60.toml")))


def test_what_an_editor_leaves_behind_is_read_by_nobody(
    graced: Service, left_behind: object
) -> None:
    (client,) = graced.connect()
    done = graced.device.run("graced", "--check-config", check=False)
    assert done.returncode == 0, done
    assert done.stdout.startswith(VALID)
    assert recipe(graced).returncode == 0
    assert answers(client), "the restart was a handover"
    graced.device.run(POSTINST, "configure", "0.1.0")
    assert answers(client), "so was the upgrade"
    graced.stop()
    graced.start()
    assert graced.echoes()


def test_overlap_is_refused_by_check_restart_upgrade_and_start(
    graced: Service,
) -> None:
    (client,) = graced.connect()
    graced.configure(OVERLAP)
    check = graced.device.run("graced", "--check-config", check=False)
    assert check.returncode == 78
    assert "overlap, only one can be listened on" in check.stderr
    assert recipe(graced).returncode == 78
    assert answers(client)
    upgrade = graced.device.run(POSTINST, "configure", "0.1.0", check=False)
    assert upgrade.returncode == 1
    assert "the one that runs was left alone and goes on serving" in upgrade.stderr
    assert answers(client)
    graced.stop()
    graced.device.systemctl("start", UNIT, check=False)
    unit = graced.show("ActiveState", "StatusText")
    assert unit["ActiveState"] != "active"
    assert "overlap, only one can be listened on" in unit["StatusText"]


def test_probes_are_counted_and_not_logged(graced: Service) -> None:
    graced.configure("[log]\nprobes = false\n")
    graced.restart()
    graced.mark()
    for _ in range(3):
        with graced.device.connect(PORT) as probe:
            probe.shutdown(socket.SHUT_WR)
            assert not probe.recv(1)
    (client,) = graced.connect()
    with graced.watch() as watch:
        watch.until(lambda unit: re.search(r"\(3 without a byte\)", unit["StatusText"]) is not None)
    graced.restart()
    assert answers(client)
    with graced.watch() as watch:
        watch.until(lambda unit: re.search(r"\(3 without a byte\)", unit["StatusText"]) is not None)
    records = [each["MESSAGE"] for each in graced.own_records()]
    assert sum(each.startswith("connection from ") for each in records) == 1
    assert not any(each.startswith("closing connection from ") for each in records)


def test_ipv4_client_of_a_dual_stack_socket_has_one_notation(graced: Service) -> None:
    """graced.socket is for both families."""
    device = graced.device
    graced.stop()
    device.systemctl("start", SOCKET_UNIT)
    try:
        graced.start()
        graced.mark()
        (client,) = graced.connect(port=7)
        name = f"127.0.0.1:{client.getsockname()[1]}"
        assert graced.journal(f"GRACED_CLIENT={name}")
        assert not any("::ffff:" in each["MESSAGE"] for each in graced.own_records())
    finally:
        device.systemctl("stop", SOCKET_UNIT, UNIT, check=False)
