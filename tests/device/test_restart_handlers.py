"""Restarts under handlers, some of which can be handed over."""

from __future__ import annotations

import time

import pytest

from device.counting import KINDS, assert_counted, configure, totals
from device.crowd import leave
from device.load import Load
from device.restarting import STOPPED_WELL, answers, await_state, end_of, fields, settle
from device.service import (
    FAREWELL,
    INHERITED,
    STOPPED,
    UNIT,
    Service,
    clients_now,
    receive,
    rest,
)
from robustness.scale import scaled

# Blocks, and cannot move on.
PLAIN_HANDLER = """
from socketserver import BaseRequestHandler

class Plain(BaseRequestHandler):
    farewell = b"SHUTDOWN"

    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
"""


def test_handlers_that_can_move_are_not_noticed_either(graced: Service) -> None:
    graced.configure('[server]\nhandler = "echo-threaded"\n')
    graced.restart()
    busy = graced.connect(20)
    silent = graced.knock(20)
    with Load(graced, busy) as load:
        for _ in range(scaled(5, 50)):
            load.rounds(2)
            graced.restart()
        load.rounds(2)
    assert load.wrong == []
    print(graced.device.name, "longest", load.longest, load.longest_visit)
    assert [client for client in silent if not answers(client)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_handlers_of_each_kind_keep_their_state(graced: Service, kind: str) -> None:
    configure(graced, kind)
    busy = graced.connect(20)
    silent = graced.knock(20)
    before = totals(busy)
    with Load(graced, busy) as load:
        for _ in range(scaled(5, 50)):
            load.rounds(2)
            graced.restart()
        load.rounds(2)
    assert load.wrong == []
    print(graced.device.name, kind, load.trips, "trips", load.visits, "visits", load.longest)
    assert_counted(load, busy, before)
    assert [client for client in silent if not answers(client)] == []


def test_clients_of_handlers_that_cannot_move_are_told(graced: Service) -> None:
    graced.device.write("/usr/lib/python3/dist-packages/plain_handler.py", PLAIN_HANDLER)
    graced.configure('[server]\nhandler = "plain_handler:Plain"\n[shutdown]\ngrace_period = 2\n')
    graced.restart()
    leaves, stays = graced.connect(2)
    silent = graced.knock(10)
    with graced.watch() as watch:
        watch.until(lambda unit: clients_now(unit["StatusText"]) == 12)
    pid = graced.pid
    graced.mark()
    graced.device.systemctl("restart", "--no-block", UNIT)
    for client in (leaves, stays):
        assert receive(client, len(FAREWELL)) == FAREWELL
    told = time.monotonic()
    client = leaves
    client.sendall(b"one more")
    assert leave(client) is None
    assert answers(stays)
    assert rest(stays) == b""
    assert 1.5 <= time.monotonic() - told <= 3
    assert [client for client in silent if not answers(client)] == []
    assert graced.pid != pid
    settle(graced)
    assert fields(graced, INHERITED, "GRACED_CLIENTS") == [10]
    assert fields(graced, STOPPED, "GRACED_CLIENTS_GONE") == [1]
    assert fields(graced, STOPPED, "GRACED_CLIENTS_CLOSED") == [1]


def test_restart_goes_on_when_last_handler_has_ended(graced: Service) -> None:
    graced.device.write("/usr/lib/python3/dist-packages/plain_handler.py", PLAIN_HANDLER)
    graced.configure('[server]\nhandler = "plain_handler:Plain"\n[shutdown]\ngrace_period = 60\n')
    graced.restart()
    (client,) = graced.connect()
    (silent,) = graced.knock()
    graced.device.systemctl("restart", "--no-block", UNIT)
    assert receive(client, len(FAREWELL)) == FAREWELL
    client.sendall(b"one more")
    assert leave(client) is None
    began = time.monotonic()
    assert answers(silent)
    assert time.monotonic() - began < 5


def test_stop_while_handlers_hold_restart_up(graced: Service) -> None:
    """Clients that were handed over to a start that is cancelled get end of file."""
    graced.device.write("/usr/lib/python3/dist-packages/plain_handler.py", PLAIN_HANDLER)
    graced.configure('[server]\nhandler = "plain_handler:Plain"\n[shutdown]\ngrace_period = 2\n')
    graced.restart()
    (client,) = graced.connect()
    silent = graced.knock(10)
    with graced.watch() as watch:
        watch.until(lambda unit: clients_now(unit["StatusText"]) == 11)
    graced.device.systemctl("restart", "--no-block", UNIT)
    assert receive(client, len(FAREWELL)) == FAREWELL
    graced.device.systemctl("stop", "--no-block", UNIT)
    assert rest(client) == b""
    assert {end_of(client) for client in silent} <= {b"", FAREWELL}
    await_state(graced, STOPPED_WELL)
