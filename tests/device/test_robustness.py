"""Killed at any moment, and with a journal that has stopped: what only a real systemd can show.

GRACED_FULL=1: as many kills as were promised, see tests/robustness/conftest.py.
"""

import select
import socket
import time
from collections.abc import Callable
from random import Random

from device.service import FAREWELL, UNIT, Service, receive, rest
from rigging.errors import PATIENCE
from robustness.scale import Dice, scaled
from support import MACHINE, MOMENT

KILLS = scaled(6, 100)
"""On each release."""
GRACE = 2.0

PAIRS = 16
ROUNDS = scaled(3, 9)
SECONDS = scaled(0.3, 1.0)


def wait(seconds: float) -> None:
    """Let time pass, so that the next event comes at a random moment."""
    select.poll().poll(seconds * 1000)


def kill(graced: Service) -> str:
    """SIGKILL for all that is there; returns which invocation of the unit it was, or is to be."""
    invocation = graced.show("InvocationID")["InvocationID"]
    graced.device.systemctl("kill", "--signal=SIGKILL", UNIT, check=False)
    return invocation


def kill_in_service(graced: Service, dice: Random) -> str:
    wait(dice.uniform(0, 0.2))
    return kill(graced)


def kill_in_the_drain(graced: Service, dice: Random) -> str:
    (client,) = graced.connect()
    graced.device.systemctl("kill", "--kill-who=main", "--signal=SIGTERM", UNIT)
    assert receive(client, len(FAREWELL)) == FAREWELL
    wait(dice.uniform(0, 0.2))
    return kill(graced)


def kill_in_the_start(graced: Service, dice: Random) -> str:
    """Which begins by itself a tenth of a second after the first kill."""
    kill(graced)
    wait(dice.uniform(0, 0.6))
    return kill(graced)


def await_service(graced: Service, killed: str) -> None:
    """Return when a later invocation serves; systemd alone starts it."""
    with graced.watch() as watch:
        state = watch.until(
            lambda unit: unit["ActiveState"] == "active" and unit["InvocationID"] != killed
        )
    assert graced.echoes()
    assert graced.device.read("/run/graced/graced.pid").split() == [state["MainPID"]]


def test_service_starts_again_after_kill_at_any_moment(graced: Service) -> None:
    dice = Dice()
    print(repr(dice))
    graced.drop_in("[Service]\nRestartSec=100ms\n")
    graced.configure("[shutdown]\ngrace_period = 600\n")
    graced.restart()
    moments: list[Callable[[Service, Random], str]] = [
        kill_in_service,
        kill_in_the_drain,
        kill_in_the_start,
    ]
    for number in range(KILLS):
        await_service(graced, moments[number % len(moments)](graced, dice))
    assert int(graced.show("NRestarts")["NRestarts"]) >= KILLS


def ping_pong(clients: list[socket.socket], seconds: float) -> list[float]:
    """Have each send as soon as the one before is back; the times of the trips."""
    poll = select.poll()
    sent = {}
    by_fd = {client.fileno(): client for client in clients}
    took = []
    for fd, client in by_fd.items():
        poll.register(fd, select.POLLIN)
        sent[fd] = time.perf_counter()
        client.sendall(b"x" * 64)
    end = time.perf_counter() + seconds
    while sent:
        ready = poll.poll(PATIENCE * 1000)
        assert ready, "no answer"
        for fd, _ in ready:
            assert by_fd[fd].recv(4096) == b"x" * 64
            now = time.perf_counter()
            took.append(now - sent.pop(fd))
            if now < end:
                sent[fd] = now
                by_fd[fd].sendall(b"x" * 64)
    return took


def p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def test_journal_that_has_stopped(graced: Service) -> None:
    """As on a disk that hangs: the echo does not wait for the journal, and the stop is punctual."""
    device = graced.device
    graced.configure(f'[shutdown]\ngrace_period = {GRACE}\n[log]\nlevel = "debug"\n')
    graced.restart()
    clients = graced.connect(PAIRS)
    ping_pong(clients, 0.5)
    normal, stopped = [], []
    try:
        for _ in range(ROUNDS):
            device.systemctl("kill", "--signal=SIGCONT", "systemd-journald.service")
            normal.append(p99(ping_pong(clients, SECONDS)))
            device.systemctl("kill", "--signal=SIGSTOP", "systemd-journald.service")
            stopped.append(p99(ping_pong(clients, SECONDS)))
        began = time.monotonic()
        device.systemctl("kill", "--kill-who=main", "--signal=SIGTERM", UNIT)
        assert receive(clients[0], len(FAREWELL)) == FAREWELL
        with graced.watch() as watch:
            watch.until(lambda unit: unit["ActiveState"] == "inactive")
        took = time.monotonic() - began
        for client in clients[1:]:
            assert rest(client) == FAREWELL
    finally:
        device.systemctl("kill", "--signal=SIGCONT", "systemd-journald.service")
    print(
        f"p99 {1e6 * median(normal):.0f} us, with a stopped journal {1e6 * median(stopped):.0f} us;"
        f" stopped in {took:.3f} s"
    )
    assert GRACE <= took <= GRACE + MOMENT + MACHINE
