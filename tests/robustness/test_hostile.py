"""A crowd of clients of which one in a hundred is hostile, and sixteen that want to be served."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from signal import SIGTERM

from robustness.crowd import Crowd
from robustness.measure import Usage, median, on_processors
from robustness.scale import FULL, scaled
from robustness.trips import GOOD, Trips
from support import FAREWELL, Graced

CLIENTS = scaled(1_000, 10_000)
STORM = scaled(2_000, 10_000)
"""Connections a second besides."""
ROUNDS = scaled(3, 9)
SECONDS = scaled(0.4, 2.0)
WORSE = scaled(20.0, 4.0)
"""How many times the 99th percentile of an empty server is bearable."""

KIB = 1024
PER_CLIENT = 1 * KIB
"""A client that waits costs a third of that; the accept queue and the tables count, too."""
PER_STALLED = 16 * KIB
OWED = 16 * KIB * KIB
"""See `graced.loop.clients.UNSENT_BUDGET`: what stalled clients can cost together, besides."""
LOG = 8 * KIB * KIB
"""4096 records that wait to be written, and what is freed but not given back."""

CONFIG = f"""
[limits]
max_clients = {CLIENTS + 2_000}
stall_timeout = 0
"""
ADDRESSES = [f"127.0.0.{number}:0" for number in range(1, 5)]
"""More than one, or there would not be enough ports for all the clients."""


def test_sixteen_among_ten_thousand(record_property: Callable[[str, object], None]) -> None:
    *ours, theirs = sorted(os.sched_getaffinity(0))
    with on_processors(ours or [theirs]), ExitStack() as stack:
        empty = stack.enter_context(Graced(listen=ADDRESSES, config=CONFIG))
        graced = stack.enter_context(Graced("--grace", "2", listen=ADDRESSES, config=CONFIG))
        usage = Usage(graced.pid)
        good = [stack.enter_context(graced.connect(i % len(ADDRESSES))) for i in range(GOOD)]
        with Trips(empty.addresses) as undisturbed, Trips(graced.addresses) as disturbed:
            undisturbed.percentile(0.1)
            disturbed.percentile(0.1)
            before = usage.memory
            with on_processors([theirs]):
                crowd = stack.enter_context(Crowd(graced.addresses, CLIENTS, STORM))
            crowd.storm()
            calm, stormy = [], []
            for _ in range(ROUNDS):
                crowd.pause()
                calm.append(undisturbed.percentile(SECONDS))
                crowd.go_on()
                stormy.append(disturbed.percentile(SECONDS))
            memory = usage.memory

        graced.signal(SIGTERM)
        for client in good:
            assert client.recv_to_end() == FAREWELL
        assert graced.wait() == 0
        heard = crowd.report()
        assert empty.stop() == 0

    bound = CLIENTS * PER_CLIENT + CLIENTS // 400 * PER_STALLED + OWED + LOG
    figures = {
        "p99 empty, us": round(1e6 * median(calm)),
        "p99 storm, us": round(1e6 * median(stormy)),
        "memory, KiB": (memory - before) // KIB,
        "bound, KiB": bound // KIB,
        **heard,
    }
    print(figures)
    for name, value in figures.items():
        record_property(name, value)
    assert memory - before <= bound
    assert heard["idle: told"] == CLIENTS - CLIENTS // 100
    assert not [kind for kind in heard if kind.endswith(": reset")]
    assert heard["storm"] > STORM, "no storm at all"
    assert median(stormy) <= WORSE * median(calm)
    assert not FULL or heard["storm"] / heard["seconds"] > STORM / 3
