"""A process is killed between two messages to the service manager: nobody is forgotten.

The next start finds each listener with its queue and each client once; a client whose state may be
old is told.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from signal import SIGKILL, SIGTERM, SIGUSR2
from typing import Any

import pytest

from support import FAREWELL, PASS, PATIENCE, Client, FdStore, Graced
from support.process import environment

LISTENERS = "graced-listeners"
MESSAGES = {"restart": 3, "always": 5}
"""READY, a new mirror and the removal of the old, the removal of a bundle and an empty one."""
KILL = """
import os, signal, sys
from graced.systemd.outbox import Outbox
transmit, number = Outbox._transmit, {number}
def transmit_or_die(outbox, message):
    global number
    number -= 1
    if not number:
        os.kill(os.getpid(), signal.SIGKILL)
    transmit(outbox, message)
Outbox._transmit = transmit_or_die
from graced.app.cli import main
sys.exit(main())
"""


def start(store: FdStore) -> dict[str, Any]:
    return {"env": store.environment, "before": PASS, "pass_fds": store.descriptors}


def start_and_die(store: FdStore, keep: str, number: int, *options: str) -> None:
    """A start that is killed when it is about to send a message; at the latest when it serves."""
    command = [sys.executable, "-c", PASS + KILL.format(number=number), *options]
    with subprocess.Popen(
        command,
        env=environment(store.environment),
        pass_fds=store.descriptors,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        if number > MESSAGES[keep]:
            store.wait_for("FDNAME=graced-clients", 3)
            process.kill()
        assert process.wait(PATIENCE) == -SIGKILL


@pytest.mark.parametrize(
    ("keep", "number"),
    [(keep, number) for keep, most in MESSAGES.items() for number in range(1, most + 2)],
)
def test_start_that_is_killed(store: FdStore, tmp_path: Path, keep: str, number: int) -> None:
    config = f"[continuity]\nkeep = '{keep}'\n"
    file = tmp_path / "graced.toml"
    file.write_text(config)
    with Graced(config=config, **start(store)) as first:
        (address,) = first.addresses
        client = first.served()
        store.wait_for("FDNAME=graced-clients")
        first.signal(SIGUSR2)
        assert first.wait() == 79
    with client:
        start_and_die(store, keep, number, "--config", str(file), "--listen", address)
        with (
            Client.connect(address) as queued,
            Graced(config=config, listen=address, **start(store)) as last,
        ):
            queued.echo(b"never lost")
            if keep == "always":
                client.echo(b"never lost")
            else:
                assert client.recv_to_end() in {b"", FAREWELL}
            assert store.names.count(LISTENERS) == 1
            last.signal(SIGTERM)
            queued.expect_farewell_alone()
            queued.close()
            if keep == "always":
                client.expect_farewell_alone()
                client.close()
            assert last.wait() == 0
