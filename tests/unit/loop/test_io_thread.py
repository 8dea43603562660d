"""The I/O thread as a whole, with real sockets."""

from __future__ import annotations

import pytest

from graced.loop import clients as clients_module
from graced.loop.clients import SMALL_READ
from loop.scene import Make
from support import PATIENCE


def test_bytes_and_clients_are_counted(make: Make) -> None:
    scene = make()
    with scene.connect() as one, scene.connect() as two:
        one.echo(b"hello")
        two.echo(b"you")
        assert scene.do(lambda: scene.thread.echoed) == 8
        assert scene.admission.clients == 2
        scene.thread.drain()
        scene.changed()
        assert scene.thread.draining
        for client in (one, two):
            client.expect_farewell_alone()
        one.close()
        scene.finish()
        two.expect_end()
    assert (scene.thread.departed, scene.thread.closed) == (1, 1)
    assert scene.admission.clients == 0


def test_posted_actions_run_in_order(make: Make) -> None:
    scene = make()
    done: list[int] = []
    for number in range(1000):
        scene.thread.post(lambda number=number: done.append(number))  # type: ignore[misc]
    scene.do(lambda: None)
    assert done == list(range(1000))


def test_probe_is_answered(make: Make) -> None:
    scene = make()
    scene.thread.probe(7)
    scene.changed()
    assert scene.thread.answered == 7


def test_next_activity_is_reported_once(make: Make) -> None:
    scene = make()
    with scene.connect() as client:
        client.echo(b"hello")
        scene.thread.report_next_activity()
        for _ in range(10):
            client.echo(b"hello")
        scene.changed()
        assert not scene.changes.acquire(blocking=False)
        scene.thread.report_next_activity()
    scene.changed()


def test_failure_is_kept_and_reported_and_clients_are_closed(make: Make) -> None:
    scene = make()
    with scene.connect() as client:
        client.echo(b"hello")

        def fail() -> None:
            raise LookupError("as expected")

        scene.thread.post(fail)
        scene.changed()
        client.expect_end()
    scene.thread.join(PATIENCE)
    assert isinstance(scene.thread.failure, LookupError)


def test_client_that_does_not_read_gets_everything_later(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients_module, "UNSENT_BUDGET", 1)
    scene = make()
    with scene.connect() as blocked, scene.connect() as client:
        sent = blocked.send_until_full()
        client.echo(b"x" * 3 * SMALL_READ)
        assert blocked.recv_exactly(sent) == b"x" * sent
        blocked.echo(b"hello")


def test_reset_client_disturbs_no_other(make: Make) -> None:
    scene = make()
    with scene.connect() as rude, scene.connect() as client:
        rude.send_until_full()
        rude.reset()
        client.echo(b"hello")
        scene.wait_until(lambda: scene.admission.clients == 1)


def test_bytes_that_arrived_before_the_drain_are_echoed_before_the_farewell(make: Make) -> None:
    scene = make()
    with scene.connect() as client:
        client.echo(b"hello")

        def send_and_drain() -> None:
            client.send(b"last words")
            scene.thread.drain()

        scene.do(send_and_drain)
        assert client.recv_exactly(10) == b"last words"
        client.expect_farewell_alone()


def test_client_that_connected_before_the_drain_is_served(make: Make) -> None:
    scene = make()
    connected = []

    def connect_and_drain() -> None:
        connected.append(scene.connect())
        scene.thread.drain()

    scene.do(connect_and_drain)
    (client,) = connected
    with client:
        client.expect_farewell_alone()
        client.echo(b"still here")


def test_second_drain_changes_nothing(make: Make) -> None:
    scene = make()
    with scene.connect() as client:
        client.echo(b"hello")
        scene.thread.drain()
        client.expect_farewell_alone()
        client.echo(b"still here")
        scene.thread.drain()
        scene.do(lambda: None)
        client.echo(b"and still here")


def test_thread_without_clients_ends_at_once(make: Make) -> None:
    scene = make()
    scene.finish()
    scene.changed()
    assert scene.thread.failure is None
