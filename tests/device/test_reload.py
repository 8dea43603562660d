"""``systemctl reload`` on a booted device: nobody notices, or nothing has changed."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable

import pytest

from device.load import Load
from device.restarting import answers
from device.service import RELOAD_FAILED, UNIT, Service, is_message
from rigging import CommandError
from robustness.scale import scaled

RELOADS = scaled(5, 200)
BUSY = 100
IDLE = 500


def reload(graced: Service) -> None:
    graced.device.systemctl("reload", UNIT)


def test_reloads_under_load_disturb_no_client(
    graced: Service, record_property: Callable[[str, object], None]
) -> None:
    busy = graced.connect(BUSY)
    idle = graced.connect(IDLE)
    before = graced.show("MainPID", "NRestarts", "NFileDescriptorStore")
    with Load(graced, busy) as load:
        for _ in range(RELOADS):
            load.rounds(2)
            last = graced.pid
            reload(graced)
            assert graced.pid != last
        load.rounds(10)
    record_property("longest_trip", str(round(load.longest, 3)))
    assert load.wrong == []
    assert [client for client in idle if not answers(client)] == []
    after = graced.show("MainPID", "NRestarts", "NFileDescriptorStore")
    assert after == {**before, "MainPID": after["MainPID"]}
    assert graced.device.read("/run/graced/graced.pid").strip() == after["MainPID"]
    bad = [record["MESSAGE"] for record in graced.journal() if int(record["PRIORITY"]) <= 4]
    assert [text for text in bad if "not logged" not in text] == []


def test_configuration_is_reloaded(graced: Service) -> None:
    (client,) = graced.connect()
    graced.configure('[server]\nlisten = ["localhost:9999", "localhost:9998"]\n')
    reload(graced)
    assert answers(client)
    assert graced.echoes(9998)
    graced.configure('[server]\nlisten = ["localhost:9999"]\n')
    reload(graced)
    assert answers(client)
    with pytest.raises(ConnectionRefusedError):
        graced.echoes(9998)


def test_reload_that_fails_changes_nothing(graced: Service) -> None:
    (client,) = graced.connect()
    pid = graced.pid
    graced.configure("[limits]\nmax_clients = -1\n")
    with pytest.raises(CommandError):
        reload(graced)
    assert answers(client)
    shown = graced.show("MainPID", "ActiveState", "StatusText", "ReloadResult")
    assert (shown["MainPID"], shown["ActiveState"]) == (str(pid), "active")
    assert shown["ReloadResult"] == "exit-code"
    text = "conf.d/test-it.toml: limits.max_clients"
    assert re.search(f"the last reload failed: .*{text}", shown["StatusText"])
    # The command of the unit says it in the journal, too.
    (said,) = [record for record in graced.journal() if is_message(RELOAD_FAILED)(record)]
    assert text in said["MESSAGE"]


@pytest.fixture
def old_with_rest(graced: Service) -> int:
    """The pid of an old process that drains a client beside the new one."""
    graced.configure("[shutdown]\ngrace_period = 60\n")
    reload(graced)
    graced.connect()
    # A client that is told does not move.
    graced.device.run("gracectl", "tell", "--idle=0")
    old = graced.pid
    reload(graced)
    assert graced.device.exists(f"/proc/{old}")
    assert graced.pid != old
    return old


def test_new_process_stays_the_main_process(graced: Service, old_with_rest: int) -> None:
    """systemd has read the pidfile when the command of the reload has ended."""
    new = graced.pid
    assert graced.device.read("/run/graced/graced.pid") == f"{new}\n"
    (client,) = graced.connect()
    graced.device.python(f"""
import os, select
old = os.pidfd_open({old_with_rest})
os.kill({old_with_rest}, 9)
select.select([old], [], [])
""")
    assert answers(client)
    assert graced.show("MainPID", "NRestarts") == {"MainPID": str(new), "NRestarts": "0"}


def test_stop_does_not_wait_for_the_rest(graced: Service, old_with_rest: int) -> None:
    graced.stop()
    assert graced.show("ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}
    assert not graced.device.exists(f"/proc/{old_with_rest}")


def test_restart_and_stop_after_a_reload(graced: Service) -> None:
    (client,) = graced.connect()
    reload(graced)
    graced.restart()
    assert answers(client)
    reload(graced)
    assert answers(client)
    graced.stop()
    assert graced.show("ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}


def test_process_that_dies_after_a_reload_is_started_again(graced: Service) -> None:
    reload(graced)
    with graced.watch() as watch:
        graced.device.python(f"import os; os.kill({graced.pid}, {int(signal.SIGKILL)})")
        watch.until(lambda unit: unit["NRestarts"] == "1" and unit["SubState"] == "running")
    assert graced.echoes()
