"""Restarts with Unix sockets, sockets of systemd, and addresses that change."""

from __future__ import annotations

import threading

import pytest

from device.load import Load
from device.restarting import (
    ECHO_PATH,
    LISTENERS,
    MIRRORED,
    STOPPED_WELL,
    Footprint,
    answers,
    await_state,
    kill,
    leave_when_told,
    listen,
    settle,
)
from device.service import (
    FAREWELL,
    PORT,
    SOCKET_UNIT,
    STARTED,
    STOPPED,
    UNIT,
    Service,
    is_message,
    receive,
)
from robustness.scale import scaled

SOCKET_ACTIVATED = "/usr/share/doc/graced/examples/socket-activated.conf"
ECHO_PORT = 7


def test_unix_clients_are_carried(graced: Service) -> None:
    listen(graced, "localhost:9999", f"unix:{ECHO_PATH}")
    graced.restart()
    clients = [*graced.connect_path(ECHO_PATH, 10), *graced.connect(10)]
    for _ in range(3):
        graced.restart()
        assert [client for client in clients if not answers(client)] == []
        clients += graced.connect_path(ECHO_PATH, 2)
    settle(graced)
    assert Footprint(graced).stored == MIRRORED + 1
    graced.device.systemctl("stop", "--no-block", UNIT)
    for client in clients:
        assert receive(client, len(FAREWELL)) == FAREWELL
        client.close()
    await_state(graced, STOPPED_WELL)
    assert not graced.device.exists(ECHO_PATH)


def test_unix_listener_refuses_no_client_during_restarts(graced: Service) -> None:
    """The kernel never retries a connection to a path: a listener has to be there all the time."""
    listen(graced, "localhost:9999", f"unix:{ECHO_PATH}")
    graced.restart()
    ending = threading.Event()
    wrong: list[str] = []
    visits = [0]

    def visit() -> None:
        while not ending.wait(0.002):
            try:
                with graced.device.connect_unix(ECHO_PATH) as client:
                    if not answers(client):
                        wrong.append("no answer")
            except OSError as error:
                wrong.append(str(error))
            visits[0] += 1

    visitor = threading.Thread(target=visit)
    visitor.start()
    for _ in range(5):
        graced.restart()
    ending.set()
    visitor.join()
    print(graced.device.name, "visits", visits[0])
    assert wrong == []


def test_clients_of_address_that_is_no_more_go_on(graced: Service) -> None:
    listen(graced, "localhost:9999", f"unix:{ECHO_PATH}")
    graced.restart()
    clients = [*graced.connect_path(ECHO_PATH, 5), *graced.connect(5)]
    listen(graced, "localhost:9998")
    graced.restart()
    settle(graced)
    assert [client for client in clients if not answers(client)] == []
    clients += graced.connect(5, port=9998)
    with pytest.raises(ConnectionRefusedError):
        graced.connect(1)
    assert not graced.device.exists(ECHO_PATH)
    assert Footprint(graced).stored == MIRRORED
    listen(graced, "localhost:9999", f"unix:{ECHO_PATH}")
    graced.restart()
    clients += [*graced.connect_path(ECHO_PATH, 5), *graced.connect(5)]
    assert [client for client in clients if not answers(client)] == []
    graced.device.systemctl("stop", "--no-block", UNIT)
    for client in clients:
        assert receive(client, len(FAREWELL)) == FAREWELL


@pytest.mark.parametrize(
    ("before", "after"),
    [("localhost:9999", "*:9999"), ("*:9999", "localhost:9999"), ("127.0.0.1:9999", "[::1]:9999")],
)
def test_clients_go_on_when_addresses_overlap(graced: Service, before: str, after: str) -> None:
    """The kernel does not let *:9999 be bound as long as a socket listens on localhost:9999."""
    listen(graced, before)
    graced.restart()
    clients = graced.connect(5)
    listen(graced, after)
    graced.restart()
    assert [client for client in clients if not answers(client)] == []
    with graced.device.connect(PORT, "::1") as client:
        assert answers(client)
    settle(graced)
    assert Footprint(graced).stored == (1 if "[" in after else LISTENERS) + 1


def test_clients_of_systemd_socket_survive_restarts(graced: Service) -> None:
    """Port 7 as the example has it: the clients are carried, the socket stays where it is."""
    device = graced.device
    device.run(
        "install", "-D", "--mode=644", SOCKET_ACTIVATED, "-t", f"/etc/systemd/system/{UNIT}.d"
    )
    device.systemctl("enable", SOCKET_UNIT)
    device.systemctl("restart", UNIT)
    clients = graced.connect(20, port=ECHO_PORT)
    with Load(graced, graced.connect(20, port=ECHO_PORT), ECHO_PORT) as load:
        for _ in range(scaled(3, 20)):
            load.rounds(2)
            graced.restart()
        load.rounds(2)
    assert load.wrong == []
    assert [client for client in clients if not answers(client)] == []
    assert Footprint(graced).stored == 1


def test_start_after_stop_has_open_listeners(graced: Service) -> None:
    """Those of a stop are shut in the end, and must not come back from the store."""
    listen(graced, "localhost:9999", f"unix:{ECHO_PATH}")
    # As Debian's kernels have it: any process may attach a filter to a socket.
    graced.drop_in(
        "[Service]\nRestart=always\nRestartSec=100ms\n"
        "PrivateUsers=no\nCapabilityBoundingSet=CAP_NET_ADMIN\nAmbientCapabilities=CAP_NET_ADMIN\n"
    )
    graced.restart()
    settle(graced)
    graced.mark()
    (client,) = graced.connect(1)
    with graced.follow() as journal:
        kill(graced, "SIGTERM")
        assert leave_when_told(client) == FAREWELL
        journal.until(is_message(STOPPED))
        journal.until(is_message(STARTED))
    clients = [*graced.connect_path(ECHO_PATH, 5), *graced.connect(5)]
    assert [client for client in clients if not answers(client)] == []
