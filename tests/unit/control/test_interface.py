"""What the methods answer, and that it is what their descriptions say."""

from __future__ import annotations

import time
from threading import Event
from typing import Any

import pytest

from control.idl import Description
from control.scene import Scene
from graced.app import settings
from graced.control import interface, log_level, roll
from graced.control.rights import Rights
from graced.loop import phase
from support import PATIENCE
from support.control import CONTROL, SERVICE

CLIENTS = 100


def described(name: str = CONTROL) -> Description:
    return Description(interface.description(name))


def test_each_method_is_described_and_answered(scene: Scene) -> None:
    methods = scene.thread._interface._methods
    descriptions = [described(name) for name in interface.INTERFACES]
    assert [each.name for each in descriptions] == list(interface.INTERFACES)
    assert set(methods) == {f"{each.name}.{name}" for each in descriptions for name in each.methods}


def test_each_phase_of_a_client_has_a_name() -> None:
    assert sorted(roll.PHASES) == list(range(phase.CLIENT_PHASES))


def test_information_about_the_service(scene: Scene) -> None:
    operator = scene.peer()
    info = operator.call(f"{SERVICE}.GetInfo")["parameters"]
    assert info["interfaces"] == [CONTROL, SERVICE]
    assert described(SERVICE).has(info, described(SERVICE).methods["GetInfo"][1])
    for name in info["interfaces"]:
        parameters = {"interface": name}
        found = operator.call(f"{SERVICE}.GetInterfaceDescription", parameters=parameters)
        assert found == {"parameters": {"description": interface.description(name)}}


@pytest.mark.parametrize(
    ("inherited", "drains"),
    [(None, False), ((3, 120), True), ((1, None), False)],
)
def test_status(scene: Scene, inherited: Any, drains: bool) -> None:
    scene.subject.inherited = inherited
    scene.connect()
    if drains:
        scene.server.drain(time.monotonic() + 5.0)
    operator = scene.peer()
    found = operator.status()
    assert described().has(found, described().methods["Status"][1])
    assert (found["name"], found["state"], found["clients"]) == ("graced@test", "serving", 1)
    assert found["sent"] == len(b"hello")
    limits = {limit["name"]: (limit["now"], limit["most"]) for limit in found["limits"]}
    assert limits["max_clients"] == (1, 1000)
    assert limits["max_clients_per_host"] == (1, 500)
    now, most = limits["descriptors"]
    assert 0 < now < most
    if inherited:
        assert (found["inherited"]["clients"], found["inherited"]["milliseconds"]) == inherited
    if drains:
        assert 4.0 < found["drain"]["secondsLeft"] <= 5.0
    else:
        assert found["drain"] is None


def test_refusals_are_counted_by_reason(scene: Scene) -> None:
    operator = scene.peer()
    admission = scene.server.admission
    assert operator.status()["refused"] == []
    for reason in (
        "max_clients = 1 reached",
        "access.deny has 192.0.2.0/24",
        "access.allow has no network of the client",
        "proxy_protocol: no header",
        "access.deny has 192.0.2.66",
    ):
        admission.refuse(reason)
    # By a process of a release that did not count by reason.
    admission.refused += 7
    found = {each["reason"]: each["clients"] for each in operator.status()["refused"]}
    assert found == {
        "max_clients": 1,
        "access.deny": 2,
        "access.allow": 1,
        "proxy_protocol": 1,
        "unknown": 7,
    }


def test_metrics_are_as_described(scene: Scene) -> None:
    scene.connect()
    found = scene.peer().call(f"{CONTROL}.Metrics")["parameters"]
    assert described().has(found, described().methods["Metrics"][1])
    values = {
        sample["name"]: sample["value"] for each in found["metrics"] for sample in each["samples"]
    }
    assert (values["graced_clients"], values["graced_sent_bytes_total"]) == (1, 5)
    names = [each["name"] for each in found["metrics"]]
    assert len(set(names)) == len(names)
    for each in found["metrics"]:
        assert each["name"].endswith(each["unit"])
        for sample in each["samples"]:
            assert sample["name"].startswith(each["name"])
            assert sample["labels"]["service"] == "graced@test"


@pytest.mark.parametrize("level", ["INFO", "critical", "", None, 3, ["debug"]])
def test_wrong_level_is_refused(scene: Scene, level: Any) -> None:
    operator = scene.peer()
    found = operator.call(f"{CONTROL}.SetLogLevel", parameters={"level": level})
    assert found == {"error": f"{SERVICE}.InvalidParameter", "parameters": {"parameter": "level"}}
    assert operator.status()["logLevel"] == "info"


def test_levels_are_those_of_the_configuration() -> None:
    assert log_level.NAMES == settings.LOG_LEVELS


def test_peer_that_may_only_look_changes_nothing(scene: Scene) -> None:
    client = scene.connect()
    operator = scene.peer(Rights(user=1000, may_look=True, may_act=False))
    for method, parameters in (
        ("TellClients", {"client": client.name}),
        ("SetLogLevel", {"level": "debug"}),
    ):
        found = operator.call(f"{CONTROL}.{method}", parameters=parameters)
        assert found == {"error": f"{SERVICE}.PermissionDenied", "parameters": {}}
    status = operator.status()
    assert (status["logLevel"], status["clients"]) == ("info", 1)
    client.echo(b"still served")
    # Looking is allowed.
    assert operator.call(f"{CONTROL}.Metrics")["parameters"]["metrics"]


def test_losses_of_the_log_are_counted_reported_or_not(scene: Scene) -> None:
    operator = scene.peer()
    log = scene.subject.log
    log._dropped, log._suppressed = 2, 3
    log._report_losses()
    log._dropped = 5
    found = operator.status()
    assert (found["logDropped"], found["logSuppressed"]) == (7, 3)
    log._dropped = 0


def test_all_clients_are_listed_once(scene: Scene) -> None:
    names = sorted(scene.connect().name for _ in range(CLIENTS))
    found = scene.peer().clients()
    assert sorted(row["client"] for row in found) == names
    output = described().methods["ListClients"][1]
    assert described().has({"clients": found}, output)
    assert all((row["sent"], row["received"], row["unsent"]) == (5, 5, 0) for row in found)
    assert {(row["kind"], row["phase"], row["told"]) for row in found} == {
        ("ipv4", "active", False)
    }


def test_client_that_does_not_read_is_seen(scene: Scene) -> None:
    client = scene.connect()
    client.send_until_full()
    (row,) = scene.peer().clients()
    assert row["phase"] == "write_blocked"
    assert 0 < row["unsent"] <= row["received"] - 5


@pytest.mark.parametrize(
    ("filters", "number"),
    [
        ({}, 1),
        ({"host": None, "phase": None, "idle": None}, 1),
        ({"host": "127.0.0.1"}, 1),
        ({"client": "127.0.0.1:1"}, 0),
        ({"host": "127.0.0.0/8"}, 1),
        ({"host": "::/0"}, 0),
        ({"host": "10.0.0.0/8"}, 0),
        ({"phase": "active"}, 1),
        ({"phase": "in_handler"}, 0),
        ({"idle": 0}, 1),
        ({"idle": 1000.5}, 0),
    ],
)
def test_filters(scene: Scene, filters: dict[str, Any], number: int) -> None:
    scene.connect()
    assert len(scene.peer().clients(**filters)) == number


@pytest.mark.parametrize(
    ("filters", "wrong"),
    [
        ({"client": 7}, "client"),
        ({"host": "localhost"}, "host"),
        ({"host": 127}, "host"),
        ({"host": ["127.0.0.1"]}, "host"),
        ({"phase": "asleep"}, "phase"),
        ({"phase": {}}, "phase"),
        ({"idle": -1}, "idle"),
        ({"idle": "1"}, "idle"),
        ({"idle": True}, "idle"),
        ({"idle": 1e999}, "idle"),
        ({"age": 1}, "age"),
    ],
)
def test_wrong_filter_is_named(scene: Scene, filters: dict[str, Any], wrong: str) -> None:
    operator = scene.peer()
    if filters.get("idle") == float("inf"):
        operator.sock.sendall(
            b'{"method":"io.graced.Control.ListClients","parameters":{"idle":1e999},"more":true}\0'
        )
        found = operator.reply()
    else:
        found = operator.call(f"{CONTROL}.ListClients", parameters=filters, more=True)
    assert found == {"error": f"{SERVICE}.InvalidParameter", "parameters": {"parameter": wrong}}


@pytest.mark.parametrize(
    ("method", "error", "parameters"),
    [
        (f"{CONTROL}.ListClients", "ExpectedMore", {}),
        (f"{CONTROL}.Nothing", "MethodNotFound", {"method": f"{CONTROL}.Nothing"}),
        ("com.example.Do", "InterfaceNotFound", {"interface": "com.example"}),
        ("", "InterfaceNotFound", {"interface": ""}),
        (f"{SERVICE}.GetInterfaceDescription", "InvalidParameter", {"parameter": "interface"}),
    ],
)
def test_wrong_call(scene: Scene, method: str, error: str, parameters: dict[str, Any]) -> None:
    operator = scene.peer()
    found = operator.call(method)
    assert found == {"error": f"{SERVICE}.{error}", "parameters": parameters}
    assert set(parameters) == set(described(SERVICE).errors[error])
    # The connection goes on.
    assert operator.status()["state"] == "serving"


def test_peer_without_rights_is_refused_everything(scene: Scene) -> None:
    operator = scene.peer(Rights(user=1000, may_look=False, may_act=False))
    for method in (f"{CONTROL}.Status", f"{CONTROL}.ListClients", f"{SERVICE}.GetInfo", "x.Y"):
        found = operator.call(method, more=True)
        assert found == {"error": f"{SERVICE}.PermissionDenied", "parameters": {}}


def test_peer_that_may_only_look_closes_nobody(scene: Scene) -> None:
    client = scene.connect()
    operator = scene.peer(Rights(user=1000, may_look=True, may_act=False))
    assert len(operator.clients()) == 1
    found = operator.call(f"{CONTROL}.CloseClients", parameters={"client": client.name})
    assert found == {"error": f"{SERVICE}.PermissionDenied", "parameters": {}}
    client.echo(b"still served")


@pytest.mark.parametrize("method", ["CloseClients", "TellClients"])
@pytest.mark.parametrize("filters", [{}, {"client": None, "host": None}])
def test_all_clients_are_not_meant_by_mistake(
    scene: Scene, filters: dict[str, Any], method: str
) -> None:
    client = scene.connect()
    found = scene.peer().call(f"{CONTROL}.{method}", parameters=filters)
    assert found == {"error": f"{SERVICE}.InvalidParameter", "parameters": {"parameter": "client"}}
    client.echo(b"still served")


def test_many_clients_are_closed_and_no_other(scene: Scene) -> None:
    clients = [scene.connect() for _ in range(CLIENTS)]
    clients[-1].send_until_full()
    operator = scene.peer()
    found = operator.call(f"{CONTROL}.CloseClients", parameters={"phase": "active"})
    assert found == {"parameters": {"closed": CLIENTS - 1}}
    assert described().has(found["parameters"], described().methods["CloseClients"][1])
    for client in clients[:-1]:
        client.expect_end()
    (row,) = operator.clients()
    assert (row["client"], row["phase"]) == (clients[-1].name, "write_blocked")


def test_peer_that_may_only_look_stops_nothing(scene: Scene) -> None:
    operator = scene.peer(Rights(user=1000, may_look=True, may_act=False))
    found = operator.call(f"{CONTROL}.Drain", more=True)
    assert found == {"error": f"{SERVICE}.PermissionDenied", "parameters": {}}
    assert not scene.server.draining.is_set()


def test_drain_is_ordered_once_and_seen_by_all(scene: Scene) -> None:
    client = scene.connect()
    first, second = scene.peer(), scene.peer()
    found = first.call(f"{CONTROL}.Drain")
    assert described().has(found["parameters"], described().methods["Drain"][1])
    assert found["parameters"]["clients"] == 1
    deadline = scene.server.deadline
    assert deadline
    second.send(f"{CONTROL}.Drain", more=True)
    assert second.reply()["parameters"]["clients"] == 1
    assert scene.server.deadline == deadline
    client.expect_farewell_alone()
    client.close()
    while (found := second.reply())["parameters"]["clients"]:
        pass
    assert found["parameters"]["departed"] == 1
    assert found["continues"]
    # Another peer does not wait for that.
    assert first.status()["clients"] == 0


def test_io_thread_that_does_not_answer_is_named(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roll, "ANSWER_TIMEOUT", 0.1)
    operator = scene.peer()
    go_on = Event()

    def block() -> None:
        go_on.wait(PATIENCE)

    scene.server.io_threads[0].post(block)
    found = operator.call(f"{CONTROL}.ListClients", more=True)
    assert found == {"error": f"{CONTROL}.NotAnswering", "parameters": {"thread": "io-0"}}
    go_on.set()
    assert operator.clients() == []


def test_reload_is_followed_to_its_end(scene: Scene) -> None:
    operator = scene.peer()
    operator.send(f"{CONTROL}.Reload", more=True)
    found = operator.reply()
    assert found["continues"]
    assert described().has(found["parameters"], described().methods["Reload"][1])
    scene.reload.moved, scene.reload.remaining, scene.reload.pid = 3, 1, 4712
    scene.reload.ended = True
    while (found := operator.reply()).get("continues"):
        pass
    assert found["parameters"] == {
        "ended": True,
        "reason": "",
        "pid": 4712,
        "moved": 3,
        "remaining": 1,
    }


def test_reload_is_for_those_who_may_act_and_wait(scene: Scene) -> None:
    operator = scene.peer()
    assert operator.call(f"{CONTROL}.Reload") == {
        "error": f"{SERVICE}.ExpectedMore",
        "parameters": {},
    }
    scene.subject.reload = None
    found = operator.call(f"{CONTROL}.Reload", more=True)
    assert found == {"error": f"{CONTROL}.NoReload", "parameters": {}}
    looker = scene.peer(Rights(user=1000, may_look=True, may_act=False))
    found = looker.call(f"{CONTROL}.Reload", more=True)
    assert found == {"error": f"{SERVICE}.PermissionDenied", "parameters": {}}
