"""Peers of all sorts: none costs another, or the service, anything."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control.scene import Scene
from graced.control import peer
from graced.control.rights import Rights
from graced.control.thread import MAX_PEERS, MAX_PEERS_OF_A_USER
from graced.log import events
from support import MOMENT, PATIENCE
from support.control import CONTROL, SERVICE, Operator

STATUS = f"{CONTROL}.Status"
MANY = 40
"""Clients whose list does not fit into a small buffer."""


def expect_end(operator: Operator) -> None:
    with pytest.raises((EOFError, ConnectionResetError)):
        operator.reply()


def test_calls_that_come_together_are_answered_in_their_order(scene: Scene) -> None:
    operator = scene.peer()
    operator.send(STATUS)
    operator.send(f"{SERVICE}.GetInfo")
    operator.send(STATUS, oneway=True)
    operator.send(f"{CONTROL}.ListClients", more=True, oneway=True)
    operator.send("a.B")
    assert "uptime" in operator.reply()["parameters"]
    assert "vendor" in operator.reply()["parameters"]
    assert operator.reply()["error"] == f"{SERVICE}.InterfaceNotFound"


def test_call_that_comes_byte_by_byte(scene: Scene) -> None:
    operator = scene.peer()
    for byte in json.dumps({"method": STATUS}).encode() + b"\0":
        operator.sock.sendall(bytes([byte]))
    assert operator.reply()["parameters"]["state"] == "serving"


def test_thread_ends_with_its_last_peer(scene: Scene) -> None:
    first, second = scene.peer(), scene.peer()
    assert first.status()["state"] == second.status()["state"] == "serving"
    first.sock.close()
    assert second.status()["state"] == "serving"
    second.sock.close()
    ended = scene.thread
    ended.join(PATIENCE)
    assert not ended.is_alive()
    assert scene.peer().status()["state"] == "serving"
    assert scene.thread is not ended


def test_peer_that_does_not_read_delays_nobody_and_is_closed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = [scene.connect() for _ in range(MANY)]
    slow, quick = scene.peer(buffer=1), scene.peer()
    slow.send_until_full(f"{CONTROL}.ListClients")
    for client in clients:
        client.echo(b"still served")
        assert len(quick.clients()) == MANY
    # It is closed while it still does not read; what it was sent before is still there.
    monkeypatch.setattr(peer, "PROGRESS_TIMEOUT", MOMENT)
    quick.sock.close()
    scene.thread.join(PATIENCE)
    assert not scene.thread.is_alive()
    slow.read_to_end()


@pytest.mark.parametrize("sent", [b"", b'{"method"'])
def test_peer_that_says_nothing_is_closed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    timeout = "PROGRESS_TIMEOUT" if sent else "IDLE_TIMEOUT"
    monkeypatch.setattr(peer, timeout, MOMENT)
    operator = scene.peer()
    operator.sock.sendall(sent)
    expect_end(operator)
    scene.thread.join(PATIENCE)
    assert not scene.thread.is_alive()


def test_a_user_has_so_many_places_and_root_has_the_rest(scene: Scene) -> None:
    user = Rights(user=1000, may_look=True, may_act=False)
    operators = [scene.peer(user) for _ in range(MAX_PEERS_OF_A_USER)]
    error = {"error": f"{CONTROL}.TooManyPeers", "parameters": {}}
    refused = scene.peer(user)
    assert refused.reply() == error
    expect_end(refused)
    operators += [scene.peer() for _ in range(MAX_PEERS - MAX_PEERS_OF_A_USER)]
    assert scene.peer().reply() == error
    for operator in operators:
        assert operator.status()["state"] == "serving"
    operators[0].sock.close()
    # The place is free when the thread has noticed.
    while True:
        with scene.peer(user) as again, suppress(BrokenPipeError):
            if "error" not in again.call(STATUS):
                break


def test_failure_of_a_method_ends_its_peer_alone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, operator = scene.peer(), scene.peer()
    monkeypatch.setattr(scene.subject, "inherited", 7)
    operator.send(STATUS)
    expect_end(operator)
    scene.subject.inherited = None
    assert other.status()["state"] == "serving"
    (record,) = [each for each in scene.log.records if each.event is events.CONTROL_FAILED]
    assert "TypeError" in str(record.fields["reason"])


def test_stop_closes_all_peers(scene: Scene) -> None:
    operators = [scene.peer() for _ in range(3)]
    assert operators[0].status()
    scene.thread.stop()
    for operator in operators:
        expect_end(operator)
    scene.thread.join(PATIENCE)
    assert not scene.thread.is_alive()


CALLS = st.fixed_dictionaries(
    {},
    optional={
        "method": st.sampled_from([STATUS, f"{CONTROL}.ListClients", "a.B", "", 1]),
        "parameters": st.none()
        | st.dictionaries(
            st.sampled_from(["host", "idle", "phase", "interface"]),
            st.none() | st.integers() | st.floats() | st.text() | st.just("127.0.0.0/8"),
            max_size=3,
        )
        | st.text(),
        "more": st.booleans() | st.integers(),
        "oneway": st.booleans(),
        "upgrade": st.booleans(),
    },
)
INPUT = st.lists(
    st.binary(max_size=300)
    | CALLS.map(lambda call: json.dumps(call).encode() + b"\0")
    | CALLS.map(lambda call: json.dumps(call).encode()),
    max_size=8,
)


@given(INPUT)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_malformed_input_does_no_harm(scene: Scene, parts: list[bytes]) -> None:
    with scene.peer() as keeper:
        with scene.peer() as hostile:
            try:
                for part in parts:
                    hostile.sock.sendall(part)
                hostile.sock.shutdown(1)
                while hostile.sock.recv(65536):
                    pass
            except (BrokenPipeError, ConnectionResetError):
                pass
        assert keeper.status()["state"] == "serving"
    assert not [each for each in scene.log.records if each.event is events.CONTROL_FAILED]
