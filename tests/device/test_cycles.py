"""Starting and stopping again and again, also when PID 1 is slow to look at its children."""

import time

import pytest

from device.service import STARTED, STOPPED, Service
from rigging import Machine, VirtualMachine
from rigging.streams import LineStream
from robustness.scale import scaled

CYCLES = 100
EMULATED_CYCLES = scaled(20, 200)
"""On a virtual machine, where a start takes seconds."""
SLOW_CYCLES = 20

# Lines of systemd that tell of a lost race for the main process.
SUSPICIOUS = ("PID file", "not our child", "does not belong", "unknown pid", "Failed with result")


def cycle(graced: Service, times: int) -> None:
    graced.stop()
    graced.mark()
    pids = set()
    for _ in range(times):
        graced.start()
        pids.add(graced.pid)
        graced.stop()
    assert graced.show("ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}
    assert len(pids) == times
    records = graced.journal()
    bad = [r["MESSAGE"] for r in records if any(word in r["MESSAGE"] for word in SUSPICIOUS)]
    assert bad == []
    assert [r["MESSAGE"] for r in records if int(r["PRIORITY"]) <= 4] == []
    kinds = [r.get("MESSAGE_ID") for r in records]
    assert kinds.count(STARTED) == times
    assert kinds.count(STOPPED) == times


@pytest.mark.every_kernel
def test_many_cycles(graced: Service) -> None:
    virtual = isinstance(graced.device, VirtualMachine)
    cycle(graced, EMULATED_CYCLES if virtual else CYCLES)


def test_cycles_with_slow_pid_1(graced: Service, booted: Machine) -> None:
    # The parent of the daemon exits while systemd has not yet read what it said about it.
    trace = booted.popen(
        "strace", "--attach=1", "--trace=waitid", "--inject=waitid:delay_enter=8000", "-o/dev/null"
    )
    with LineStream(trace, booted.end) as strace:
        assert "attached" in strace.line(time.monotonic() + 30)
        cycle(graced, SLOW_CYCLES)
