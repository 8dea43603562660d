"""Storms of stop signals, at any moment from the first instruction of the program on.

Before it has run its first line nothing can be caught: a storm begins when the kernel says that
the signals are held or caught.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from contextlib import ExitStack, suppress
from signal import SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGSTOP, SIGTERM, SIGUSR1
from typing import Self

import pytest

from robustness.scale import Dice, scaled
from support import FAREWELL, MOMENT, PATIENCE, Daemon, Graced, Log, attempts, status_field

STOP = [SIGTERM, SIGHUP, SIGINT, SIGQUIT]
MOST = 20
WITHIN = 0.1
"""Seconds that a storm lasts."""

REGRESSIONS: list[int] = []
"""Seeds of storms that have failed once."""


class Unborn(Graced):
    """Entered as soon as there is a process."""

    def __enter__(self) -> Self:
        self._start()
        return self


class Newborn(Daemon):
    """Entered as soon as there is the process of the command, `command_pid`."""

    def __enter__(self) -> Self:
        self._start()
        return self

    def _start(self) -> None:
        self.pid = 0
        with self.log_file.open("wb") as file:
            self.typed = subprocess.Popen(self.command, env=self._env, stdout=file, stderr=file)
        self.log = Log.of_file(self.log_file)
        self.command_pid = self.typed.pid

    def born(self) -> None:
        """Wait for the command, which must succeed."""
        assert self.typed.wait(PATIENCE) == 0, str(self.log)
        self.pid = int(self.log.wait_for(r"serving on (.*) with pid (\d+)$")[2])

    def _end(self) -> None:
        if self.typed.poll() is None:
            self.typed.kill()
            self.typed.wait()
        super()._end()


def _held(pid: int) -> bool:
    """Whether SIGTERM cannot kill the process; it may be gone.

    libc blocks all signals for a moment of its own, before Python starts (glibc 2.41 twice, for
    getrandom(2)); graced blocks only the signals that it acts on.
    """
    try:
        blocked, caught = (int(status_field(pid, name), 16) for name in ("SigBlk", "SigCgt"))
    except (FileNotFoundError, ProcessLookupError):
        return True
    by_graced = blocked & _bit(SIGTERM) and not blocked & _bit(SIGCHLD)
    return bool(by_graced or caught & _bit(SIGTERM))


def _bit(signum: signal.Signals) -> int:
    """The place of a signal in a mask of /proc/PID/status."""
    return 1 << (signum - 1)


class Storm:
    """Signals at random times, of which the first is at once."""

    def __init__(self, dice: Dice) -> None:
        number = dice.randint(1, MOST)
        later = sorted(dice.uniform(0, WITHIN) for _ in range(number - 1))
        self.signals = [(at, dice.choice(STOP)) for at in (0.0, *later)]

    def strike(self, pidfd: int) -> None:
        """Send them to a process, which may end of it."""
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        began = time.monotonic()
        for at, signum in self.signals:
            poll.poll(max(0.0, began + at - time.monotonic()) * 1000)
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signum)


def _check(graced: Graced | Daemon, grace: float, sent: int) -> None:
    log = graced.log
    assert log.count("received, closing in") == 1, str(log)
    assert "stopped after" in log.lines[-1], str(log)
    assert graced.stopped.seconds <= grace + MOMENT
    acknowledged = log.count("received, already closing") + log.count("received again, ending")
    assert acknowledged < sent + 1
    assert "Traceback" not in str(log)


SEEDS = [Dice().number for _ in range(scaled(15, 500))] + REGRESSIONS
if "GRACED_SEED" in os.environ:
    SEEDS = SEEDS[:1]


@pytest.mark.parametrize("number", range(len(SEEDS)))
def test_storm_of_signals(number: int) -> None:
    dice = Dice(SEEDS[number])
    print(repr(dice))
    grace = dice.choice([0, 0.05, 0.3])
    storm = Storm(dice)
    options = ["--grace", str(grace), "--handler", dice.choice(["echo", "echo-threaded"])]
    when = dice.choice(
        [_while_it_starts, _while_it_serves, _while_it_drains, _while_a_daemon_starts, _of_a_daemon]
    )
    when(storm, grace, options)


def _while_it_starts(storm: Storm, grace: float, options: list[str]) -> None:
    with Unborn(*options) as graced, ExitStack() as stack:
        pidfd = os.pidfd_open(graced.pid)
        stack.callback(os.close, pidfd)
        for _ in attempts("the signals are held"):
            if _held(graced.pid):
                break
        storm.strike(pidfd)
        assert graced.wait() == 0
        _check(graced, grace, len(storm.signals))


def _while_it_serves(storm: Storm, grace: float, options: list[str]) -> None:
    with Graced(*options) as graced, ExitStack() as stack:
        clients = [stack.enter_context(graced.connect()) for _ in range(3)]
        for client in clients:
            client.echo(b"here")
        _storm(graced, storm, stack)
        _check(graced, grace, len(storm.signals))
        for client in clients:
            assert client.recv_to_end() == FAREWELL


def _storm(graced: Graced, storm: Storm, stack: ExitStack) -> None:
    pidfd = os.pidfd_open(graced.pid)
    stack.callback(os.close, pidfd)
    storm.strike(pidfd)
    assert graced.wait() == 0


def _while_it_drains(storm: Storm, grace: float, options: list[str]) -> None:
    with Graced(*options) as graced, ExitStack() as stack:
        clients = [stack.enter_context(graced.connect()) for _ in range(3)]
        for client in clients:
            client.echo(b"here")
        graced.signal(SIGTERM)
        graced.log.wait_for("received, closing in")
        _storm(graced, storm, stack)
        _check(graced, grace, len(storm.signals) + 1)
        for client in clients:
            assert client.recv_to_end() == FAREWELL


def _while_a_daemon_starts(storm: Storm, grace: float, options: list[str]) -> None:
    with Newborn(*options) as graced, ExitStack() as stack:
        pidfd = os.pidfd_open(graced.command_pid)
        stack.callback(os.close, pidfd)
        for _ in attempts("the signals are held"):
            if _held(graced.command_pid):
                break
        storm.strike(pidfd)
        graced.born()
        # All of the storm was for the command; but what it heard first it has passed on.
        assert graced.wait() == 0
        _check(graced, grace, len(storm.signals))
        assert not graced.pid_file.exists()


def _of_a_daemon(storm: Storm, grace: float, options: list[str]) -> None:
    with Daemon(*options) as graced, ExitStack() as stack:
        client = stack.enter_context(graced.connect())
        client.echo(b"here")
        pidfd = os.pidfd_open(graced.pid)
        stack.callback(os.close, pidfd)
        storm.strike(pidfd)
        assert graced.wait() == 0
        _check(graced, grace, len(storm.signals))
        assert client.recv_to_end() == FAREWELL
        assert not graced.pid_file.exists()


def test_signals_that_arrive_together_are_all_acknowledged() -> None:
    """The kernel knows no order among them."""
    with Graced("--grace", "60") as graced, graced.connect() as client:
        client.echo(b"here")
        for signum in (SIGSTOP, SIGTERM, SIGHUP, SIGUSR1, SIGCONT):
            graced.signal(signum)
        client.expect_farewell_alone()
        graced.log.wait_for("(SIGTERM|SIGHUP) received, closing in 60 s, 1 client ")
        graced.log.wait_for("(SIGTERM|SIGHUP) received, already closing")
        graced.log.wait_for("(serving|draining): 1 client ")
        client.close()
        assert graced.wait() == 0


def test_two_impatient_signals_that_arrive_together() -> None:
    with Graced("--grace", "60") as graced, graced.connect() as client:
        client.echo(b"here")
        for signum in (SIGSTOP, SIGQUIT, SIGINT, SIGCONT):
            graced.signal(signum)
        assert graced.wait() == 0
        assert graced.stopped.closed == 1
        assert graced.stopped.seconds <= MOMENT
        assert client.recv_to_end() == FAREWELL


def test_storm_of_status_requests() -> None:
    """The pipe to the main thread is full of them at times; a stop signal gets through."""
    with Graced("--grace", "0") as graced:
        for _ in range(scaled(2_000, 100_000)):
            graced.signal(SIGUSR1)
        assert graced.stop() == 0
