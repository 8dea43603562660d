"""Restarts, stops and signals at the wrong moment."""

from __future__ import annotations

import os
import select
import signal
import socket
from random import Random

from device.restarting import (
    ECHO_PATH,
    STOPPED_WELL,
    STORMS,
    SUCCESS,
    answers,
    assert_serves,
    await_state,
    inode_of,
    kill,
    leave_when_told,
    listen,
    wait,
)
from device.service import (
    FAREWELL,
    UNIT,
    Service,
    receive,
    rest,
)
from rigging import Container
from rigging.errors import PATIENCE
from robustness.scale import Dice

AWAIT_END = "import os, select, sys; select.select([os.pidfd_open(int(sys.argv[1]))], [], [])"
"""A program that returns when the process with the number has ended, reaped or not."""


def test_stop_while_clients_are_handed_on(graced: Service) -> None:
    """The service is stopped, and no client is reset or left without an end.

    systemd sends no second signal to a process that is about to stop, so whether a client hears
    the farewell depends on the moment: before or after the gap it does, in the gap its end of file
    comes from systemd, which throws away what it keeps, or, in one moment and from systemd 254 on,
    keeps it for the next start (the test below).
    """
    dice = Dice()
    print(repr(dice))
    outcomes = {}
    for _ in range(STORMS):
        clients = graced.connect(20)
        moment = dice.uniform(0, 0.4)
        graced.device.systemctl("restart", "--no-block", UNIT)
        wait(moment)
        graced.device.systemctl("stop", "--no-block", UNIT)
        kept = not hears_something(clients[0])
        heard = set() if kept else {leave_when_told(client) for client in clients}
        outcomes[round(moment, 3)] = "kept" if kept else heard
        assert is_kept(graced) == kept, outcomes
        graced.start()
        if kept:
            assert all(answers(client) for client in clients), outcomes
            continue
        assert heard <= {b"", FAREWELL}, outcomes
        assert len(heard) == 1, outcomes
    print(graced.device.name, outcomes)
    assert_serves(graced)


def hears_something(client: socket.socket) -> bool:
    """Whether a client hears a byte or its end, for longer than any stop takes."""
    return not quiet([client], PATIENCE)


def is_kept(graced: Service) -> bool:
    """Whether systemd keeps what a service that is stopped has stored: a fault of systemd.

    From systemd 254 on the store is emptied when the unit becomes inactive without a job, and at no
    other time: unit_submit_to_release_resources_queue() in src/core/unit.c has one caller. The unit
    of a restart is inactive with a job, for the moment between the two processes. If an order to
    stop takes the place of this job in that moment, the state of the unit changes no more.
    """
    await_state(graced, STOPPED_WELL)
    return graced.show("NFileDescriptorStore")["NFileDescriptorStore"] != "0"


def test_stop_between_the_two_processes_of_a_restart(graced: Service) -> None:
    """systemd disconnects the clients; or keeps them, and the next start serves them.

    The old process has ended and the new one is not there: PID 1 finds the end of the old process
    and the order to stop at the same time, as a busy PID 1 may.
    """
    device = graced.device
    assert isinstance(device, Container)
    device.run("mkfifo", "--mode=666", "/run/gate")
    graced.drop_in("[Service]\nExecStopPost=/bin/sh -c 'read line </run/gate'\n")
    clients = graced.connect(3)
    device.systemctl("restart", "--no-block", UNIT)
    with graced.watch() as watch:
        last = watch.until(lambda unit: unit["SubState"] == "stop-post")["ControlPID"]
        os.kill(device.leader, signal.SIGSTOP)
        try:
            device.run("sh", "-c", "echo >/run/gate")
            device.python(AWAIT_END, last)
            watch.order_stop(UNIT)
        finally:
            os.kill(device.leader, signal.SIGCONT)
        kept = is_kept(graced)
    assert kept == (device.release != "bookworm")
    graced.drop_in("")
    graced.start()
    if kept:
        assert all(answers(client) for client in clients)
    else:
        assert [rest(client) for client in clients] == [b""] * len(clients)
    assert_serves(graced)


def test_restart_during_drain(graced: Service) -> None:
    """The drain goes on to its end, then the service starts: a told client is not handed over."""
    told, gone = graced.connect(2)
    pid = graced.pid
    graced.device.systemctl("stop", "--no-block", UNIT)
    for client in (told, gone):
        assert receive(client, len(FAREWELL)) == FAREWELL
    graced.device.systemctl("restart", "--no-block", UNIT)
    gone.close()
    assert answers(told)
    told.shutdown(socket.SHUT_WR)
    assert rest(told) == b""
    await_state(graced, SUCCESS)
    assert graced.pid != pid
    assert_serves(graced)


def test_restart_during_drain_that_ends_at_deadline(graced: Service) -> None:
    """The same, and the listening sockets have been shut when they are taken up again."""
    graced.configure(
        f'[shutdown]\ngrace_period = 1\n[server]\nlisten = ["localhost:9999", "unix:{ECHO_PATH}"]\n'
    )
    graced.restart()
    (client,) = graced.connect()
    graced.device.systemctl("stop", "--no-block", UNIT)
    assert receive(client, len(FAREWELL)) == FAREWELL
    graced.device.systemctl("restart", "--no-block", UNIT)
    assert rest(client) == b""
    await_state(graced, SUCCESS)
    graced.connect_path(ECHO_PATH)
    assert_serves(graced)


def test_restarts_at_once(graced: Service) -> None:
    """systemd makes one or two of them, as the moment is; no client notices."""
    clients = graced.connect(50)
    for _ in range(STORMS):
        pid = graced.pid
        graced.device.systemctl("restart", "--no-block", UNIT)
        graced.device.systemctl("restart", "--no-block", UNIT)
        assert [client for client in clients if not answers(client)] == []
        await_state(graced, SUCCESS)
        assert graced.pid != pid
    assert_serves(graced)


def test_restart_during_start(graced: Service) -> None:
    """Clients inherited by a process that is not ready yet are inherited by the next one."""
    dice = Dice()
    print(repr(dice))
    listen(graced, "localhost:9999", f"unix:{ECHO_PATH}")
    graced.restart()
    clients = [*graced.connect(50), *graced.connect_path(ECHO_PATH, 10)]
    inode = inode_of(graced, ECHO_PATH)
    for _ in range(STORMS):
        for _ in range(3):
            graced.device.systemctl("restart", "--no-block", UNIT)
            wait(dice.uniform(0, 0.3))
        assert [client for client in clients if not answers(client)] == []
        assert inode_of(graced, ECHO_PATH) == inode, "nobody who waits there is lost"
    await_state(graced, SUCCESS)
    assert_serves(graced)


def storm(graced: Service, dice: Random) -> list[str]:
    """Send a random mixture of signals; returns their names."""
    signals = [dice.choice(["SIGUSR2", "SIGUSR2", "SIGTERM", "SIGUSR1"]) for _ in range(8)]
    for name in signals:
        kill(graced, name)
        wait(dice.choice([0, 0, 0.05, 0.2]))
    return signals


def quiet(clients: list[socket.socket], seconds: float = 0.5) -> bool:
    """Whether none of the clients hears anything for a while."""
    poll = select.poll()
    for client in clients:
        poll.register(client, select.POLLIN)
    return not poll.poll(seconds * 1000)


def test_storms_of_signals(graced: Service) -> None:
    """The first signal that ends a process decides what its end is like.

    After TERM clients are told and the service stays stopped, after USR2 they are carried and it
    starts again.  Who is carried may be told by the next process, if TERM comes first there.  No
    client is reset, and each hears the farewell once or not at all.
    """
    dice = Dice()
    print(repr(dice))
    graced.drop_in("[Service]\nRestartSec=100ms\n")
    graced.configure("[shutdown]\ngrace_period = 1\n")
    graced.restart()
    outcomes = []
    for _ in range(STORMS):
        clients = graced.connect(20)
        signals = storm(graced, dice)
        with graced.watch() as watch:
            watch.until(lambda u: u["SubState"] in ("running", "dead", "failed"))
        told = not quiet(clients)
        if told:
            heard = {leave_when_told(client) for client in clients}
            await_state(graced, STOPPED_WELL)
        else:
            heard = set()
            assert all(answers(client) for client in clients), signals
            await_state(graced, SUCCESS)
            for client in clients:
                client.close()
        outcomes.append((signals, "told" if told else "carried", heard))
        assert heard == ({FAREWELL} if told else set()), outcomes[-1]
        if "SIGUSR2" not in signals:
            assert told == ("SIGTERM" in signals)
        if "SIGTERM" not in signals:
            assert not told
        graced.start()
    print(graced.device.name, *outcomes, sep="\n")
    assert_serves(graced)
