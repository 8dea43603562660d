"""A signal at each file that the start opens, from the moment on in which it can be caught."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest

from robustness.scale import Dice, scaled
from robustness.strace import STRACE, Fault, run_traced
from support import COMMAND, Log, environment

pytestmark = pytest.mark.needs("strace")

NAMES = ["SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT"]
OPTIONS = ["--listen", "127.0.0.1:0", "--config", os.devnull]


@pytest.fixture(scope="module")
def files() -> range:
    """The numbers of those that are opened by the main thread after the signals are held."""
    with tempfile.TemporaryDirectory() as directory:
        trace = Path(directory) / "trace"
        read, write = os.pipe()
        process = subprocess.Popen(
            [STRACE, "-o", str(trace), "-e", "trace=openat,rt_sigprocmask", *COMMAND, *OPTIONS],
            env=environment(),
            stderr=write,
        )
        os.close(write)
        log = Log.of_pipe(read)
        try:
            pid = int(log.wait_for(r"serving on .* with pid (\d+)$")[1])
            os.kill(pid, SIGTERM)
        finally:
            if process.wait(10):
                process.send_signal(SIGKILL)
            log.close()
        calls = trace.read_text().splitlines()
    held = next(
        number
        for number, call in enumerate(calls)
        if re.match(r"rt_sigprocmask\(SIG_BLOCK, \[HUP INT QUIT USR1 USR2 TERM\]", call)
    )
    before = sum(call.startswith("openat(") for call in calls[:held])
    return range(before + 1, sum(call.startswith("openat(") for call in calls) + 1)


def test_signal_at_each_file(files: range) -> None:
    dice = Dice()
    print(repr(dice), files)
    assert len(files) > 20
    for number in files if scaled(False, True) else dice.sample(files, 5):
        for name in scaled([dice.choice(NAMES)], NAMES):
            fault = Fault("openat", f"signal={name}", str(number))
            result, _ = run_traced(fault, *OPTIONS)
            lines = result.stderr.splitlines()
            assert result.returncode == 0, (fault, result)
            assert "serving on" in lines[0], (fault, result)
            assert f"{name} received, closing in 5 s" in lines[1], (fault, result)
            assert "stopped after" in lines[2], (fault, result)
            assert len(lines) == 3, (fault, result)
