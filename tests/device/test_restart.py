"""A restart that no client notices, and a stop that each of them hears.

GRACED_FULL=1: as many restarts as were promised, and the promised round trip.
"""

from __future__ import annotations

import resource
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device.crowd import Crowd
from device.load import Load, numbered
from device.packages import Packages
from device.restarting import MIRRORED, SUCCESS, Footprint, answers, fields, settle, settle_restart
from device.service import (
    FAREWELL,
    HANDED_OVER,
    INHERITED,
    STOPPED,
    UNIT,
    Service,
    clients_now,
    receive,
    rest,
)
from rigging import Machine
from robustness.scale import FULL, scaled

RESTARTS = scaled(12, 200)
BUSY = 100
IDLE = 1000
LONGEST_TRIP = 0.5
"""Seconds, on a machine that does nothing else."""
GROWTH = 1.05
"""Of the resident memory, over all restarts."""


@pytest.fixture(autouse=True)
def _many_descriptors() -> Iterator[None]:
    """The clients are ours, one descriptor each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = IDLE + BUSY + 512
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, need), max(hard, need)))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.every_kernel
def test_restarts_under_load_disturb_no_client(
    graced: Service, record_property: Callable[[str, object], None]
) -> None:
    busy = graced.connect(BUSY)
    idle = graced.connect(IDLE)
    with Load(graced, busy) as first:
        first.rounds(3)
        graced.restart()
        first.rounds(30)
    assert first.wrong == []
    before = Footprint(graced)
    graced.mark()
    began = time.monotonic()
    with Load(graced, busy) as load:
        for _ in range(RESTARTS - 1):
            load.rounds(2)
            graced.restart()
        load.rounds(30)
    took = time.monotonic() - began
    after = Footprint(graced)
    waited = fields(graced, INHERITED, "GRACED_MILLISECONDS")
    figures = {
        "restarts": len(waited),
        "seconds": round(took, 1),
        "trips": load.trips,
        "longest_trip": round(load.longest, 3),
        "visits": load.visits,
        "longest_visit": round(load.longest_visit, 3),
        "longest_gap": max(waited) / 1000,
        "before": before,
        "after": after,
    }
    for name, value in figures.items():
        record_property(name, str(value))
    print(graced.device.name, figures)
    assert load.wrong == []
    assert [client for client in idle if not answers(client)] == []
    handed_over = fields(graced, HANDED_OVER, "GRACED_CLIENTS")
    assert len(handed_over) == len(waited) == RESTARTS - 1
    assert handed_over == fields(graced, INHERITED, "GRACED_CLIENTS")
    assert min(handed_over) >= BUSY + IDLE
    assert f"; inherited {handed_over[-1]} clients in " in graced.show("StatusText")["StatusText"]
    assert (after.descriptors, after.stored) == (before.descriptors, before.stored)
    assert after.stored == MIRRORED
    assert after.memory <= GROWTH * before.memory
    bad = [r["MESSAGE"] for r in graced.journal() if int(r["PRIORITY"]) <= 4]
    assert [text for text in bad if "not logged" not in text] == []
    if FULL:
        assert max(load.longest, load.longest_visit) <= LONGEST_TRIP


def fill(client: socket.socket) -> int:
    """Send a numbered stream and read nothing until nothing more is taken; returns its length."""
    poll = select.poll()
    poll.register(client, select.POLLOUT)
    sent = 0
    while poll.poll(500):
        sent += client.send(numbered(sent, 65536), socket.MSG_DONTWAIT)
    return sent


def test_stream_continues_over_restarts(graced: Service) -> None:
    """Both ways at once and as fast as it can, so that bytes are under way at each moment."""
    (client,) = graced.connect()
    ending = threading.Event()
    sent = 0
    piece = 100_000

    def send() -> None:
        nonlocal sent
        while not ending.is_set():
            client.sendall(numbered(sent, piece))
            sent += piece
        client.shutdown(socket.SHUT_WR)

    def restart() -> None:
        try:
            for _ in range(5):
                graced.restart()
        finally:
            ending.set()

    threads = [threading.Thread(target=send), threading.Thread(target=restart)]
    for thread in threads:
        thread.start()
    heard = 0
    wrong = 0
    while data := client.recv(1 << 20):
        wrong += data != numbered(heard, len(data))
        heard += len(data)
    for thread in threads:
        thread.join()
    print(graced.device.name, heard, "bytes")
    assert wrong == 0
    assert heard == sent


def test_client_with_full_buffers_gets_every_byte(graced: Service) -> None:
    (client,) = graced.connect()
    sent = fill(client)
    assert sent > 2_000_000
    for _ in range(3):
        graced.restart()
    more = 3_000_000

    def send() -> None:
        client.sendall(numbered(sent, more))
        client.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    heard = rest(client)
    sender.join()
    assert len(heard) == sent + more
    assert heard == numbered(0, sent + more)


def test_half_closed_client_gets_remaining_bytes_and_end_of_file(graced: Service) -> None:
    (client,) = graced.connect()
    sent = fill(client)
    client.shutdown(socket.SHUT_WR)
    graced.restart()
    graced.restart()
    heard = rest(client)
    assert len(heard) == sent
    assert heard == numbered(0, sent)


def test_client_that_leaves_while_nobody_serves_is_not_kept(graced: Service) -> None:
    """It departs before the next start serves, with or without its echo read."""
    stay, *clients = graced.connect(21)
    for client in clients[:10]:
        client.sendall(b"unheard")
    # The stop is what takes longest, and begins the gap.
    graced.device.systemctl("restart", "--no-block", UNIT)
    for client in clients:
        client.close()
    settle_restart(graced)
    assert answers(stay)
    with graced.watch() as watch:
        watch.until(lambda unit: clients_now(unit["StatusText"]) == 1)
    # A closed socket is not kept.
    assert Footprint(graced).stored == MIRRORED


def test_counts_survive_restarts(graced: Service) -> None:
    """Clients and bytes so far are counted for the service, not for a process."""
    graced.restart()
    stays, goes = graced.connect(2)
    goes.close()
    for number in range(1, 3):
        assert answers(stays)
        graced.restart()
        settle(graced)
        status = graced.show("StatusText")["StatusText"]
        assert status.startswith("serving: 1 client now, 2 so far, "), status
        assert f", {2 + 12 * number} bytes echoed" in status


def test_carried_clients_hear_farewell_once(graced: Service) -> None:
    idle, busy = 50, 10
    crowd = Crowd(graced, idle, busy)
    graced.restart()
    graced.restart()
    settle(graced)
    graced.mark()
    graced.device.systemctl("stop", "--no-block", UNIT)
    assert crowd.see_out() == []
    with graced.watch() as watch:
        state = watch.until(lambda unit: unit["ActiveState"] in ("inactive", "failed"))
    assert state["Result"] == "success"
    assert fields(graced, STOPPED, "GRACED_CLIENTS_GONE") == [idle + busy]
    assert fields(graced, STOPPED, "GRACED_CLIENTS_CLOSED") == [0]


def test_carried_clients_have_grace_period(graced: Service) -> None:
    graced.configure("[shutdown]\ngrace_period = 3\n")
    graced.restart()
    (client,) = graced.connect()
    graced.restart()
    graced.device.systemctl("stop", "--no-block", UNIT)
    assert receive(client, len(FAREWELL)) == FAREWELL
    told = time.monotonic()
    assert answers(client)
    assert rest(client) == b""
    assert 2.5 <= time.monotonic() - told <= 4


def test_clients_survive_reexecution_of_systemd(graced: Service) -> None:
    """Upgraded itself before, between and after restarts of ours."""
    clients = graced.connect(50)
    for _ in range(2):
        graced.device.systemctl("daemon-reexec")
        graced.restart()
        assert [client for client in clients if not answers(client)] == []
    settle(graced)
    assert Footprint(graced).stored == MIRRORED


def installed(machine: Machine) -> str:
    return machine.run("dpkg-query", "--show", "--showformat=${Version}", "graced").stdout


def test_upgrade_and_downgrade_disturb_no_client(
    machine: Machine, debs: Packages, tmp_path: Path
) -> None:
    machine.install(*debs)
    ours = installed(machine)
    following = debs.rebuilt(tmp_path / "next", "9.9.9")
    graced = Service(machine)
    idle = graced.connect(200)
    with Load(graced, graced.connect(20)) as load:
        for packages, version in ((following, "9.9.9"), (debs, ours)):
            load.rounds(2)
            pid = graced.pid
            machine.install(*packages)
            assert installed(machine) == version
            assert graced.pid != pid
        load.rounds(2)
    print(machine.name, "longest", load.longest, load.longest_visit, "trips", load.trips)
    assert load.wrong == []
    assert [client for client in idle if not answers(client)] == []
    assert graced.show(*SUCCESS, "NRestarts") == SUCCESS | {"NRestarts": "0"}
    assert len(fields(graced, INHERITED, "GRACED_CLIENTS")) == 2
    graced.restore()
