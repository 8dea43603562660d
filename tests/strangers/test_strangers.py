"""Every kind of client of every stranger, at a stop, at the deadline and at a restart."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from signal import SIGTERM, SIGUSR2
from typing import Any

import pytest

from strangers.conversation import AT_ONCE, PATIENCE, Player
from strangers.crowd import Crowd
from strangers.service import GRACE, KINDS, SHORT_GRACE, server, start
from strangers.table import STRANGERS
from support import MACHINE, MOMENT, FdStore


def _runs() -> Iterator[Any]:
    for name, stranger in STRANGERS.items():
        for kind in KINDS:
            if (name, kind) == ("jsonrpc_pooled", "daemon"):
                # The daemon has its own threads: the pool would be that of the server.
                continue
            marks = [pytest.mark.needs(f"module {stranger.package}")] if stranger.package else []
            yield pytest.param(name, kind, id=f"{name}-{kind}", marks=marks)


RUNS = list(_runs())


@pytest.mark.parametrize(("name", "kind"), RUNS)
def test_stop(name: str, kind: str, tmp_path: Path) -> None:
    with server(name, kind, tmp_path, GRACE) as graced:
        with Crowd(name, graced, tmp_path) as crowd:
            graced.signal(SIGTERM)
            graced.log.wait_for("SIGTERM received")
            crowd.dismiss_the_resting()
            crowd.expect_late_client_is_sent_away()
            crowd.finish_the_busy()
        assert graced.wait(AT_ONCE) == 0
        assert graced.stopped.closed == 0


@pytest.mark.parametrize(("name", "kind"), RUNS)
def test_deadline(name: str, kind: str, tmp_path: Path) -> None:
    """Clients that are in the middle of something for ever."""
    with (
        server(name, kind, tmp_path, SHORT_GRACE) as graced,
        Crowd(name, graced, tmp_path) as crowd,
    ):
        graced.signal(SIGTERM)
        assert SHORT_GRACE <= graced.stopped.seconds < SHORT_GRACE + MOMENT + MACHINE
        if STRANGERS[name].joins:
            crowd.open_the_gate()
        assert graced.wait(AT_ONCE) == 0
        crowd.dismiss_the_resting()
        crowd.expect_the_busy_are_cut_off()
        graced.tracebacks = True


@pytest.mark.parametrize(("name", "kind"), [run for run in RUNS if run.values[1] == "daemon"])
def test_restart(name: str, kind: str, tmp_path: Path) -> None:
    """Calls under way are answered, clients at rest go, and others are served by the next process.

    Among these others is a client that has not said anything, and so has no handler: it comes last,
    since a client that is silent for some seconds gets its handler on trial.
    """
    store = FdStore()
    with store, ThreadPoolExecutor(1) as pool, ExitStack() as belongings:
        with start(name, store, tmp_path) as first:
            crowd = Crowd(name, first, tmp_path, without="silent")
            with crowd:
                silent = Player(crowd.silent, first.addresses[0])
                port = belongings.enter_context(silent.client).sock.getsockname()[1]
                first.log.wait_for(f"connection from .*:{port}$")
                first.signal(SIGUSR2)
                crowd.dismiss_the_resting()
                next_client = pool.submit(crowd.call, "quick")
                crowd.finish_the_busy()
            assert first.wait(AT_ONCE) == 79
        with start(name, store, tmp_path, listen=first.addresses[0]) as second:
            next_client.result(PATIENCE)
            silent.go_on()
            assert silent.complete
            crowd.call("slow")
            assert second.stop() == 0


GLUE = Path(__file__).with_name("glue")


@pytest.mark.parametrize("name", sorted(path.name for path in GLUE.glob("[a-z]*.py")))
def test_glue_has_at_most_ten_lines(name: str) -> None:
    lines = [line for line in (GLUE / name).read_text().splitlines() if line.strip()]
    assert len(lines) <= 10
