"""A clock on the wall that is set again and again changes nothing but the times in the log.

It is Python's view of the clock that jumps here, at each look; that no system call waits by it is
seen by strace.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from signal import SIGTERM

import pytest

from robustness.strace import STRACE
from support import CHECKOUT, FAREWELL, MACHINE, MOMENT, Client, Graced, NotifySocket, environment

HANDLERS = ["echo", "echo-threaded"]


def jumping() -> dict[str, str]:
    path = environment()["PYTHONPATH"]
    return {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "clock"), path])}


@pytest.mark.parametrize("handler", HANDLERS)
def test_drain_is_independent_of_wall_clock(handler: str) -> None:
    with Graced("--handler", handler, "--grace", "2", env=jumping()) as graced:
        with graced.connect() as client:
            client.echo(b"here")
            began = time.monotonic()
            graced.signal(SIGTERM)
            client.expect_farewell_alone()
            assert time.monotonic() - began < 1
            client.echo(b"told")
            assert client.recv_to_end() == b""
        assert graced.wait() == 0
        assert 2 <= time.monotonic() - began <= 2 + MOMENT + MACHINE
        assert graced.log.count("^<6>closing in 1 s, 1 client remaining") == 1


@pytest.mark.parametrize("handler", HANDLERS)
def test_timeouts(handler: str) -> None:
    config = "[limits]\nidle_timeout = 1.0"
    with Graced("--handler", handler, config=config, env=jumping()) as graced:
        with graced.connect() as client:
            client.echo(b"here")
            began = time.monotonic()
            client.expect_end()
            assert 0.9 <= time.monotonic() - began <= 1 + MOMENT + MACHINE
        assert graced.stop() == 0


def test_watchdog_and_status(notify_socket: NotifySocket) -> None:
    env = {**jumping(), **notify_socket.environment, "WATCHDOG_USEC": "600000"}
    with Graced(env=env) as graced, graced.connect() as client:
        notify_socket.wait_for("WATCHDOG=1")
        began = time.monotonic()
        notify_socket.wait_for("WATCHDOG=1", notify_socket.count("WATCHDOG=1") + 10)
        assert 1.6 <= time.monotonic() - began <= 3
        client.echo(b"here")
        notify_socket.wait_for("1 client now, 1 so far, 4 bytes", within=2)
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        client.close()
        assert graced.wait() == 0


def test_clock_of_test_jumps() -> None:
    """Or the other tests would not test anything."""
    from support import run_graced

    before = "import time\nprint(time.time())\nprint(time.time())\nraise SystemExit\n"
    run = run_graced(before=before, env=jumping())
    one, two = (float(line) for line in run.stdout.split())
    assert abs(one - two) > 60


@pytest.mark.needs(STRACE)
@pytest.mark.parametrize("handler", HANDLERS)
def test_no_system_call_waits_by_wall_clock(handler: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    calls = "futex,clock_nanosleep,timer_settime,timerfd_settime,setitimer,ppoll,pselect6"
    with _Traced(trace, calls, handler) as graced:
        with graced.connect() as client:
            client.echo(b"here")
            os.kill(int(graced.log.wait_for(r"with pid (\d+)")[1]), SIGTERM)
            assert client.recv_to_end() == FAREWELL
        assert graced.wait() == 0
    lines = trace.read_text().splitlines()
    assert any("futex(" in line for line in lines)
    # NULL: it does not wait for a time at all.
    wall = re.compile(r"CLOCK_REALTIME(?!.*\bNULL\b)")
    assert not [line for line in lines if wall.search(line)]


class _Traced(Graced):
    def __init__(self, trace: Path, calls: str, handler: str) -> None:
        super().__init__("--handler", handler, "--grace", "1")
        self.command = [STRACE, "-f", "-o", str(trace), "-e", f"trace={calls}", *self.command]


def test_nothing_asks_for_time_on_wall() -> None:
    """But the log, for people, and the warning that a certificate expires, which is a date."""
    words = re.compile(
        r"\btime\.time\b|\btime_ns\b|\bdatetime\b|CLOCK_REALTIME|from time import time"
    )
    package = CHECKOUT / "daemon" / "graced"
    found = [
        path.name
        for path in package.rglob("*.py")
        for line in path.read_text().splitlines()
        if words.search(line)
    ]
    assert sorted(found) == ["event.py", "tls.py"]


def test_clients_see_no_difference() -> None:
    with Graced(env=jumping()) as graced:
        clients = [Client.connect(graced.addresses[0]) for _ in range(10)]
        for number in range(20):
            for client in clients:
                client.echo(b"%d" % number)
        for client in clients:
            client.close()
        assert graced.stop() == 0
