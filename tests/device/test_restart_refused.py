"""Restarts that hand over no client, or not all."""

from __future__ import annotations

import select
import socket
import time

import pytest

from device.crowd import Crowd
from device.restarting import (
    LISTENERS,
    MIRRORED,
    STOPPED_WELL,
    SUCCESS,
    Footprint,
    answers,
    await_state,
    fields,
    kill,
    leave_when_told,
    settle,
)
from device.service import (
    FAREWELL,
    HANDED_OVER,
    INHERITED,
    NOT_INHERITED,
    SIGNAL,
    STOPPED,
    UNIT,
    Service,
    is_message,
    receive,
    rest,
)


@pytest.mark.parametrize("size", [0, LISTENERS, LISTENERS + 1, 20])
def test_clients_beyond_small_store_are_told(graced: Service, size: int) -> None:
    """Clients that fit are handed over, the others are told, and no client is reset."""
    graced.drop_in(f"[Service]\nFileDescriptorStoreMax={size}\n")
    graced.stop()
    graced.start()
    settle(graced)
    clients = graced.connect(100)
    graced.mark()
    graced.device.systemctl("restart", "--no-block", UNIT)
    with graced.follow() as journal:
        left = int(journal.until(is_message(HANDED_OVER))["GRACED_CLIENTS"])
    carried = {client.fileno(): client for client in clients}
    poll = select.poll()
    for fd in carried:
        poll.register(fd, select.POLLIN)
    while len(carried) > left:
        ready = poll.poll(30_000)
        assert ready
        for fd, _ in ready:
            poll.unregister(fd)
            assert leave_when_told(carried.pop(fd)) == FAREWELL
    assert [client for client in carried.values() if not answers(client)] == []
    await_state(graced, SUCCESS)
    settle(graced)
    print(graced.device.name, "room for", size, "carried", left)
    assert fields(graced, INHERITED, "GRACED_CLIENTS") in ([left], [])
    assert left >= 16 if size == 20 else left in (0, len(clients))
    assert graced.journal(f"MESSAGE_ID={NOT_INHERITED}") == []
    assert Footprint(graced).stored <= MIRRORED
    assert graced.echoes()


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_keep_never_makes_restart_stop(graced: Service, how: str) -> None:
    """USR2 then acts as TERM does: also by hand, where no start follows."""
    graced.configure('[continuity]\nkeep = "never"\n')
    graced.restart()
    settle(graced)
    assert Footprint(graced).stored == 0
    graced.mark()
    crowd = Crowd(graced, 50, 10)
    if how == "restart":
        graced.device.systemctl("restart", "--no-block", UNIT)
    else:
        kill(graced, "SIGUSR2")
    began = time.monotonic()
    assert crowd.see_out() == []
    await_state(graced, SUCCESS if how == "restart" else STOPPED_WELL)
    assert time.monotonic() - began < 5
    assert fields(graced, STOPPED, "GRACED_CLIENTS_GONE") == [60]
    assert graced.journal(f"MESSAGE_ID={HANDED_OVER}") == []
    assert graced.journal(f"MESSAGE_ID={INHERITED}") == []
    (first,) = graced.journal(f"MESSAGE_ID={SIGNAL}")
    assert first["GRACED_SIGNAL"] == "SIGUSR2"
    if how == "restart":
        assert graced.echoes()


def test_keep_never_from_now_on(graced: Service) -> None:
    """The process that is asked decides with the configuration that it has read itself."""
    clients = graced.connect(10)
    graced.configure('[continuity]\nkeep = "never"\n')
    graced.restart()
    assert [client for client in clients if not answers(client)] == []
    graced.device.systemctl("restart", "--no-block", UNIT)
    for client in clients:
        assert receive(client, len(FAREWELL)) == FAREWELL
        client.shutdown(socket.SHUT_WR)
        assert rest(client) == b""
    await_state(graced, SUCCESS)


@pytest.mark.parametrize(
    "config",
    ["[server]\nlisten = 7\n", "[limits]\nmax_clients = 10000\n"],
    ids=["seen before", "not to be known before"],
)
def test_clients_are_told_when_configuration_refuses_start(graced: Service, config: str) -> None:
    """A start that is refused inherits no client: the old process or the new one tells them."""
    clients = graced.connect(10)
    graced.configure(config)
    graced.device.systemctl("restart", "--no-block", UNIT)
    assert {leave_when_told(client) for client in clients} == {FAREWELL}
    await_state(graced, {"ActiveState": "failed", "ExecMainStatus": "78"})
