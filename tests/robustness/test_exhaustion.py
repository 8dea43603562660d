"""Descriptors and memory that are used up, and what a client can cost."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from signal import SIGTERM

import pytest

from robustness.measure import Usage, paced
from robustness.scale import scaled
from support import Client, Graced

WINDOW = scaled(2.0, 20.0)
"""Seconds that something is measured for."""
MOST_CPU = 0.05
AT_ONCE = 1.0
"""Seconds within which a client is served when there is a descriptor."""

KIB = 1024
MIB = 1024 * KIB


@contextmanager
def no_descriptors(pid: int) -> Iterator[None]:
    """The process has those that it has, and gets no more."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (Usage(pid).descriptors[-1] + 1, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_descriptors_that_are_used_up(record_property: Callable[[str, object], None]) -> None:
    """Accepting pauses and nothing else does; it costs nothing; it goes on by itself."""
    with Graced() as graced, ExitStack() as stack:
        clients = [stack.enter_context(graced.connect()) for _ in range(20)]
        for client in clients:
            client.echo(b"here")
        usage = Usage(graced.pid)
        with no_descriptors(graced.pid):
            waiting = [stack.enter_context(graced.connect()) for _ in range(50)]
            graced.log.wait_for("<4>cannot accept clients")
            used, began = usage.cpu, time.monotonic()
            trips = paced(clients, WINDOW)
            share = (usage.cpu - used) / (time.monotonic() - began)
            assert graced.log.count("cannot accept clients") == 1
            delays = []
            for late in waiting[:5]:
                began = time.monotonic()
                clients.pop().close()
                late.echo(b"at last")
                delays.append(time.monotonic() - began)
        for late in waiting:
            late.echo(b"served")
        for client in clients:
            client.echo(b"still here")
        figures = {
            "cpu, %": round(100 * share, 2),
            "slowest echo, ms": round(1000 * max(trips), 1),
            "served after a descriptor was free, s": [round(delay, 2) for delay in delays],
        }
        print(figures)
        for name, value in figures.items():
            record_property(name, value)
        assert share < MOST_CPU
        assert max(delays) < AT_ONCE
        assert max(trips) < AT_ONCE
        stack.close()
        assert graced.stop() == 0


# What stalled clients cost together: graced.loop.clients.UNSENT_BUDGET and a small read each.
BUDGET = 16 * MIB
SMALL = 16 * KIB
SLACK = 6 * MIB
"""For what is freed and not given back, the large buffer, and the clients themselves."""


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_clients_that_never_read(
    kind: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    number = scaled(100, 1000)
    address = f"unix:{tmp_path}/socket" if kind == "unix" else "127.0.0.1:0"
    with (
        Graced(listen=address, config="[limits]\nstall_timeout = 0") as graced,
        ExitStack() as stack,
    ):
        usage = Usage(graced.pid)
        good = stack.enter_context(graced.connect())
        # The large buffer is in use before it is measured.
        good.echo(b"x" * 64 * KIB)
        before = usage.memory
        deaf = [
            stack.enter_context(graced.connect(receive_buffer=4096 if kind == "tcp" else 0))
            for _ in range(number)
        ]
        _stuff(deaf, good)
        memory = usage.memory - before
        bound = min(number * 256 * KIB, BUDGET) + number * SMALL + SLACK
        print(f"{number} stalled {kind} clients: {memory // KIB} KiB of {bound // KIB}")
        record_property(f"{number} stalled {kind} clients, KiB", memory // KIB)
        assert memory <= bound
        # Who takes a little now and then costs no more: what it has taken is not kept.
        for _ in range(20):
            for client in deaf:
                _take(client, 10_000)
            _stuff(deaf, good)
        assert usage.memory - before <= bound
        graced.signal(SIGTERM)
        good.expect_farewell_alone()
        stack.close()
        assert graced.wait() == 0


def _stuff(clients: list[Client], good: Client) -> None:
    """Send until nothing more goes in anywhere."""
    chunk = bytes(MIB)
    pending = clients
    for client in clients:
        client.sock.setblocking(False)
    quiet = 0
    while quiet < 3:
        moved = 0
        for client in pending:
            try:
                moved += client.sock.send(chunk)
            except BlockingIOError:
                continue
        quiet = 0 if moved else quiet + 1
        # Its answer comes behind what the server had to do for them.
        good.echo(b"still served")


def _take(client: Client, number: int) -> None:
    try:
        client.sock.recv(number)
    except BlockingIOError:
        return


def test_urgent_data_costs_nothing() -> None:
    """Urgent data is in the stream, and must not make the loop turn for nothing."""
    with (
        Graced("--grace", "0") as graced,
        graced.connect() as client,
        graced.connect() as other,
    ):
        client.echo(b"here")
        client.sock.send(b"!", socket.MSG_OOB)
        assert client.recv_exactly(1) == b"!"
        other.echo(b"here, too")
        usage = Usage(graced.pid)
        used = usage.cpu
        paced([other], WINDOW)
        assert (usage.cpu - used) / WINDOW < MOST_CPU
        client.send(b"go on")
        assert client.recv_exactly(5) == b"go on"
        assert graced.stop() == 0


def test_byte_at_time_in_drain_costs_nothing() -> None:
    """Clients that must not be read for a moment do not make the loop turn meanwhile."""
    config = "[shutdown]\ngrace_period = 60\nfarewell_gap = 1.0"
    with Graced(config=config) as graced, ExitStack() as stack:
        clients = [stack.enter_context(graced.connect()) for _ in range(20)]
        for client in clients:
            client.echo(b"here")
        usage = Usage(graced.pid)
        graced.signal(SIGTERM)
        graced.log.wait_for("received, closing in")
        used, began = usage.cpu, time.monotonic()
        for client in clients:
            client.expect_farewell_alone()
            # Held for a second each, at the same time.
            client.send(b"held")
        for client in clients:
            assert client.recv_exactly(4) == b"held"
        assert (usage.cpu - used) / (time.monotonic() - began) < MOST_CPU
        stack.close()
        assert graced.wait() == 0


def test_client_that_vanishes_is_noticed_by_kernel() -> None:
    """It asks after a client that has been silent for hours, or such clients add up for years."""
    with Graced("--grace", "0") as graced, graced.connect() as client:
        client.echo(b"here")
        ours, theirs = client.sock.getpeername()[1], client.sock.getsockname()[1]
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        (timer,) = [
            line[5]
            for line in lines
            if line[1].endswith(f":{ours:04X}") and line[2].endswith(f":{theirs:04X}")
        ]
        assert timer.startswith("02:"), "the keepalive timer does not run"
        assert graced.stop() == 0
