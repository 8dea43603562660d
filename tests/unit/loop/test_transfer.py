"""Clients that are transferred to another I/O thread, or back to the same."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from graced.log import events
from graced.loop import acceptor
from graced.loop import clients as clients_module
from graced.loop.clients import BUFFER_SIZE, SMALL_READ
from graced.loop.phase import FAREWELL_SENT, GONE
from loop.scene import Handlers, Make, MakeParts, Parts, Scene
from support import FAREWELL, PATIENCE, Client

SAME = pytest.mark.parametrize("same", [True, False], ids=["same thread", "another thread"])


def closings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.msg is events.CLOSED]


def echo_once(scene: Scene, number: int) -> list[Client]:
    """Connect so many clients, each with an echo."""
    clients = [scene.connect() for _ in range(number)]
    for client in clients:
        client.echo(b"hello")
    return clients


@SAME
def test_frozen_client_is_not_served_until_adopted(make: Make, same: bool) -> None:
    scene = make()
    with scene.connect() as one, scene.connect() as two:
        one.echo(b"hello")
        two.echo(b"hello, you")
        frozen = scene.freeze()
        assert {str(client): client.echoed for client in frozen} == {one.name: 5, two.name: 10}
        assert scene.admission.clients == 0
        one.send(b"meanwhile")
        assert scene.do(lambda: scene.thread.echoed) == 15
        then = scene if same else make()
        then.adopt(frozen)
        assert then.admission.clients == 2
        assert one.recv_exactly(9) == b"meanwhile"
        two.echo(b"again")
        assert then.do(lambda: {client.echoed for client in frozen}) == {14, 15}
        then.thread.drain()
        for client in (one, two):
            client.expect_farewell_alone()


def test_batch_leaves_out_clients_that_cannot_move(parts: Parts) -> None:
    """And goes on behind them."""
    clients = [parts.connect()[0] for _ in range(5)]
    clients[0].phase = clients[3].phase = FAREWELL_SENT
    assert parts.transfer.freeze(2) == [clients[1], clients[2]]
    assert parts.transfer.freeze(2) == [clients[4]]
    assert parts.transfer.freeze(2) == []
    assert [each.phase for each in clients] == [FAREWELL_SENT, GONE, GONE, FAREWELL_SENT, GONE]


@SAME
def test_unsent_bytes_are_transferred(make: Make, same: bool) -> None:
    scene = make()
    with scene.connect() as client:
        frozen, sent = scene.freeze_with_unsent(client)
        then = scene if same else make()
        then.adopt([frozen])
        client.recv_exactly(sent)
        client.echo(b"and on")
        assert then.do(lambda: frozen.echoed) == sent + 6


def test_unsent_bytes_count_where_the_client_is(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients_module, "UNSENT_BUDGET", 5)
    client, _ = parts.connect()
    parts.clients.keep_unsent(client, memoryview(b"hello"))
    assert len(parts.clients.view) == SMALL_READ
    assert parts.transfer.freeze() == [client]
    assert client.unsent == b"hello"
    assert len(parts.clients.view) == BUFFER_SIZE
    parts.transfer.adopt([client])
    assert len(parts.clients.view) == SMALL_READ


def test_unsent_bytes_of_client_that_is_turned_away_do_not_count(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients_module, "UNSENT_BUDGET", 5)
    client, peer = parts.connect()
    parts.clients.keep_unsent(client, memoryview(b"hello"))
    parts.transfer.freeze()
    client.counted = False
    parts.transfer.adopt([client])
    assert peer.recv_to_end() == b"hello" + FAREWELL
    assert len(parts.clients.view) == BUFFER_SIZE
    parts.clients.close(client, "test")
    assert len(parts.clients.view) == BUFFER_SIZE


def test_timers_of_frozen_client_do_not_expire(parts: Parts) -> None:
    client, _ = parts.connect()
    parts.clients.keep_unsent(client, memoryview(b"hello"))
    parts.transfer.freeze()
    assert client.phase == GONE
    assert parts.pass_time(1e6) == []


def test_timers_of_adopted_client_expire(make_parts: MakeParts) -> None:
    here, there = make_parts(stall_timeout=5.0), make_parts(stall_timeout=5.0)
    client, _ = here.connect()
    here.clients.keep_unsent(client, memoryview(b"hello"))
    there.transfer.adopt(here.transfer.freeze())
    assert there.pass_time(5.1) == [client]
    assert here.pass_time(5.1) == []


@pytest.mark.parametrize("meanwhile", [True, False])
def test_client_without_handler_is_transferred(make: Make, meanwhile: bool) -> None:
    handlers = Handlers()
    scene, then = make(handlers=Handlers()), make(handlers=handlers)
    with scene.connect() as client:
        scene.wait_until(lambda: scene.admission.clients)
        frozen = scene.freeze()
        if meanwhile:
            client.send(b"hello")
        then.adopt(frozen)
        if not meanwhile:
            assert handlers.taken.empty()
            client.send(b"hello")
        taken = handlers.taken.get(timeout=PATIENCE)
        assert [taken] == frozen
        assert taken.sock.getpeername() == client.sock.getsockname()
        assert taken.sock.recv(5) == b"hello"
        taken.sock.close()


def test_client_with_handler_is_not_frozen(make: Make) -> None:
    handlers = Handlers()
    scene = make(handlers=handlers)
    with scene.connect() as client:
        client.send(b"hello")
        taken = handlers.taken.get(timeout=PATIENCE)
        assert scene.freeze() == []
        assert scene.admission.clients == 1
        taken.sock.close()


def test_greeting_handler_takes_adopted_client_at_once(make: Make) -> None:
    handlers = Handlers(greet=True)
    scene, then = make(), make(handlers=handlers)
    with scene.connect() as client:
        client.echo(b"hello")
        then.adopt(scene.freeze())
        taken = handlers.taken.get(timeout=PATIENCE)
        assert taken.sock.getpeername() == client.sock.getsockname()
        taken.sock.close()


@pytest.mark.parametrize("movable", [True, False])
def test_client_with_saved_state_needs_a_movable_handler(make: Make, movable: bool) -> None:
    handlers = Handlers(movable=movable)
    scene, then = make(), make(handlers=handlers)
    with scene.connect() as client:
        client.echo(b"hello")
        (frozen,) = scene.freeze()
        frozen.saved = b"state"
        then.adopt([frozen])
        if movable:
            taken = handlers.taken.get(timeout=PATIENCE)
            assert taken.saved == b"state"
            taken.sock.close()
        else:
            assert client.recv_to_end() == FAREWELL
            assert then.admission.admitted == 0


@pytest.mark.parametrize("sends_unsent", [True, False])
def test_client_with_unsent_bytes_and_saved_state(make: Make, sends_unsent: bool) -> None:
    """A handler gets the bytes with its client, or gets the client when they are sent."""
    handlers = Handlers(movable=True, sends_unsent=sends_unsent)
    scene, then = make(), make(handlers=handlers)
    with scene.connect() as client:
        client.echo(b"hello")
        (frozen,) = scene.freeze()
        frozen.unsent, frozen.saved = b"unsent", b"state"
        then.adopt([frozen])
        taken = handlers.taken.get(timeout=PATIENCE)
        assert (taken.unsent, taken.saved) == (b"unsent" * sends_unsent, b"state")
        if not sends_unsent:
            assert client.recv() == b"unsent"
        taken.sock.close()


def test_client_that_comes_after_the_freeze_waits_in_the_backlog(make: Make) -> None:
    scene = make()
    scene.freeze()
    with scene.connect() as client:
        client.send(b"hello")
        assert scene.do(lambda: scene.admission.admitted) == 0
        scene.listener.sock.setblocking(True)
        sock, _ = scene.listener.accept()
        with sock:
            assert sock.recv(5) == b"hello"


def test_second_freeze_and_drain_find_no_client(make: Make) -> None:
    scene = make()
    with scene.connect() as client:
        client.echo(b"hello")
        for frozen in scene.freeze():
            frozen.sock.close()
        assert scene.freeze() == []
        scene.thread.drain()
        scene.changed()
        scene.finish()
    assert (scene.thread.departed, scene.thread.closed) == (0, 0)


def test_client_that_leaves_while_frozen_is_closed_when_adopted(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "graced")
    scene, then = make(), make()
    with scene.connect() as polite, scene.connect() as rude:
        names = [polite.name, rude.name]
        for client in (polite, rude):
            client.echo(b"hello")
        frozen = scene.freeze()
        polite.close()
        rude.reset()
        then.adopt(frozen)
        then.wait_until(lambda: not then.admission.clients)
    closed = "closing connection from {}: {} by the client, 5 bytes echoed in "
    wanted = {closed.format(names[0], "closed"), closed.format(names[1], "reset")}
    assert {text.rpartition("in ")[0] + "in " for text in closings(caplog)} == wanted


@pytest.mark.parametrize("greet", [True, False])
def test_client_that_resets_while_frozen_is_closed_when_adopted(make: Make, greet: bool) -> None:
    scene, then = make(), make(handlers=Handlers(greet=greet))
    clients = echo_once(scene, 10)
    frozen = scene.freeze()
    for client in clients:
        client.reset()
    then.adopt(frozen)
    then.wait_until(lambda: not then.admission.clients)
    assert then.thread.failure is None


def test_client_over_the_limit_is_turned_away_and_reported(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    scene, then = make(), make(limit=2)
    clients = echo_once(scene, 3)
    frozen = scene.freeze()
    then.adopt(frozen)
    told = [c for c in clients if str(frozen[2]) == c.name]
    assert [client.recv_to_end() for client in told] == [FAREWELL]
    for client in clients:
        if client not in told:
            client.echo(b"hello")
        client.close()
    assert [r.getMessage() for r in caplog.records] == [
        f"refused 1 client, the last from {frozen[2]}: max_clients = 2 reached"
    ]
    then.finish()
    assert then.admission.clients == 0


def test_all_adopted_clients_over_the_limit_get_farewell(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`MAX_LINGERING` is for strangers."""
    monkeypatch.setattr(acceptor, "MAX_LINGERING", 1)
    scene, then = make(), make(limit=1)
    clients = echo_once(scene, 5)
    frozen = scene.freeze()
    then.adopt(frozen)
    for client in clients:
        if client.name == str(frozen[0]):
            client.echo(b"still here")
        else:
            assert client.recv_to_end() == FAREWELL
        client.close()


def test_client_that_is_not_counted_is_turned_away_and_not_logged(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    scene, then = make(), make()
    with scene.connect() as client:
        client.echo(b"hello")
        (stranger,) = scene.freeze()
        stranger.counted = False
        stranger.unsent = b"unsent"
        caplog.clear()
        caplog.set_level(logging.INFO, "graced")
        then.adopt([stranger])
        assert client.recv_to_end() == b"unsent" + FAREWELL
    then.finish()
    assert (then.admission.clients, then.admission.admitted) == (0, 0)
    assert not caplog.records


def test_lingering_client_is_not_frozen(make: Make) -> None:
    scene = make(limit=1)
    with scene.connect() as guest, scene.connect() as refused:
        guest.echo(b"hello")
        assert refused.recv_to_end() == FAREWELL
        frozen = scene.freeze()
        assert [str(client) for client in frozen] == [guest.name]
        frozen[0].sock.close()


def test_silence_before_the_transfer_counts(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Restarts now and then must not keep an idle client for ever."""
    caplog.set_level(logging.INFO, "graced")
    scene, then = make(idle_timeout=3600.0), make(idle_timeout=3600.0)
    with scene.connect() as idle, scene.connect() as busy:
        for client in (idle, busy):
            client.echo(b"hello")
        frozen = scene.freeze()
        for each in frozen:
            each.last -= 3599.9 if str(each) == idle.name else 1800.0
        then.adopt(frozen)
        idle.expect_end()
        busy.echo(b"still here")
    assert [text for text in closings(caplog) if ": idle, 5 bytes echoed in" in text]


def test_new_idle_timeout_holds_for_adopted_client(make: Make) -> None:
    scene, then = make(), make(idle_timeout=0.2)
    with scene.connect() as client:
        client.echo(b"hello")
        then.adopt(scene.freeze())
        client.expect_end()


def test_stall_timeout_holds_for_adopted_client(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "graced")
    scene, then = make(stall_timeout=3600.0), make(stall_timeout=0.2)
    with scene.connect() as client:
        frozen, _ = scene.freeze_with_unsent(client)
        then.adopt([frozen])
        then.wait_until(lambda: not then.admission.clients)
    assert [text for text in closings(caplog) if ": stalled, " in text]


def test_no_two_unix_clients_have_the_same_number(make: Make, tmp_path: Any) -> None:
    scene, then = make(f"unix:{tmp_path}/one"), make(f"unix:{tmp_path}/two")
    with scene.connect() as one, scene.connect() as two:
        for client in (one, two):
            client.echo(b"hello")
        then.adopt(scene.freeze())
        with then.connect() as three:
            three.echo(b"hello")
            frozen = then.freeze()
            assert len({each.port for each in frozen}) == 3
            for each in frozen:
                each.sock.close()


def test_client_that_does_not_read_can_be_turned_away(make: Make) -> None:
    scene, then = make(), make()
    with scene.connect() as client:
        stranger, sent = scene.freeze_with_unsent(client)
        stranger.counted = False
        then.adopt([stranger])
        # What the kernel takes, and end of file.
        heard = client.recv_to_end()
        assert heard
        # The kernel may make room before it is asked: input that was not read is not echoed.
        echoed = heard.rstrip(FAREWELL)
        assert echoed == b"x" * len(echoed)
        assert FAREWELL.startswith(heard[len(echoed) :])
        assert len(echoed) <= sent
    then.finish()
    assert then.admission.admitted == 0
