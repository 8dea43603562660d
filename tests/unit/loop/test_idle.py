"""The idle timeout.  No thread."""

from __future__ import annotations

from graced.loop.clients import RESTING
from graced.loop.idle import MIN_SWEEP_INTERVAL
from loop.scene import Handlers, MakeParts, Parts


def test_idle_client_is_closed_and_busy_client_stays(make_parts: MakeParts) -> None:
    parts = make_parts(idle_timeout=10.0)
    (idle, idle_peer), (busy, _) = parts.connect(), parts.connect()
    for client in (idle, busy):
        parts.idle.expect(client)
    assert parts.pass_time(9.0) == []
    busy.last = parts.poller.now
    assert parts.pass_time(1.1) == [parts.idle]
    parts.idle.close_idle(parts.idle)
    idle_peer.expect_end()
    assert parts.clients.present() == [busy]


def test_next_sweep_is_when_the_longest_silent_client_may_be_idle(make_parts: MakeParts) -> None:
    parts = make_parts(idle_timeout=10.0)
    client, _ = parts.connect()
    parts.idle.expect(client)
    client.last += 4.0
    assert parts.pass_time(10.0) == [parts.idle]
    parts.idle.close_idle(parts.idle)
    assert parts.pass_time(3.9) == []
    assert parts.pass_time(0.2) == [parts.idle]


def test_sweeps_keep_an_interval(make_parts: MakeParts) -> None:
    parts = make_parts(idle_timeout=10.0)
    client, _ = parts.connect()
    parts.idle.expect(client)
    client.last += 0.001
    assert parts.pass_time(10.0) == [parts.idle]
    parts.idle.close_idle(parts.idle)
    assert parts.pass_time(10.0 * MIN_SWEEP_INTERVAL - 0.01) == []
    assert parts.pass_time(0.02) == [parts.idle]


def test_adopted_client_brings_the_sweep_forward(make_parts: MakeParts) -> None:
    parts = make_parts(idle_timeout=10.0)
    (new, _), (adopted, _) = parts.connect(), parts.connect()
    adopted.last -= 8.0
    for client in (new, adopted):
        parts.idle.expect(client)
    assert parts.pass_time(1.9) == []
    assert parts.pass_time(0.2) == [parts.idle]


def test_silent_handler_brings_the_sweep_forward(make_parts: MakeParts) -> None:
    handlers = Handlers()
    parts = make_parts(handlers=handlers, idle_timeout=10.0)
    parts.idle.expect(parts.connect()[0])
    handlers.longest_silence = 7.0
    (client,) = parts.clients.present()
    client.last += 9.0
    assert parts.pass_time(10.0) == [parts.idle]
    parts.idle.close_idle(parts.idle)
    assert parts.pass_time(2.9) == []
    assert parts.pass_time(0.2) == [parts.idle]


def test_no_sweep_without_clients(make_parts: MakeParts) -> None:
    parts = make_parts(idle_timeout=10.0)
    parts.idle.expect(parts.connect()[0])
    assert parts.pass_time(10.0) == [parts.idle]
    parts.idle.close_idle(parts.idle)
    assert parts.pass_time(1e6) == []


def test_write_blocked_client_is_not_idle(make_parts: MakeParts) -> None:
    parts = make_parts(idle_timeout=10.0, stall_timeout=0.0)
    client, _ = parts.connect()
    parts.idle.expect(client)
    parts.clients.keep_unsent(client, memoryview(b"hello"))
    assert client.phase not in RESTING
    assert parts.pass_time(10.0) == [parts.idle]
    parts.idle.close_idle(parts.idle)
    assert parts.clients.present() == [client]


def test_no_timeout_no_sweep(parts: Parts) -> None:
    parts.idle.expect(parts.connect()[0])
    assert parts.pass_time(1e6) == []
