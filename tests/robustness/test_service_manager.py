"""A service manager that does not take a message: nothing is lost, and no healthy daemon killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM, SIGUSR2

import pytest

from robustness.strace import Fault, Injection
from support import PASS, FdStore, Graced
from support.process import LEFT_TO_THE_KERNEL

PERIOD = 1.2
"""Seconds of the watchdog: a third is more than an I/O thread of a busy machine needs to answer."""
WATCHDOG = f"""
import os
os.environ["WATCHDOG_PID"] = str(os.getpid())
os.environ["WATCHDOG_USEC"] = "{int(PERIOD * 1_000_000)}"
"""


@pytest.fixture
def store() -> Iterator[FdStore]:
    store = FdStore()
    with store:
        yield store


@pytest.mark.needs("strace")
@pytest.mark.parametrize("error", ["ENOBUFS", "ENOMEM", "EAGAIN", "EPERM"])
def test_one_refused_message_does_not_silence_the_daemon(error: str, store: FdStore) -> None:
    with (
        Graced(env=store.environment, before=WATCHDOG) as graced,
        graced.served() as client,
    ):
        store.wait_for("WATCHDOG=1")
        with Injection(graced.pid, Fault("sendto", f"error={error}", when="1")) as injection:
            graced.log.wait_for("^<4>a message to the service manager is lost, sending it again: ")
            store.wait_for("WATCHDOG=1", store.count("WATCHDOG=1") + 2)
            assert injection.hits
        client.echo(b"hello")
        graced.signal(SIGUSR2)
        assert graced.wait() == 79
        assert graced.log.count("^<4>") == 1


@pytest.mark.parametrize("number", [253, 254, 400])
def test_many_listeners_outlive_a_restart(number: int, store: FdStore, tmp_path: Path) -> None:
    """A message holds 253 descriptors at most."""
    listen = [f"unix:{tmp_path}/{each}" for each in range(number)]
    with Graced(listen=listen, env=store.environment) as first:
        client = first.connect(number - 1)
        with client:
            client.echo(b"hello")
            first.signal(SIGUSR2)
            assert first.wait() == 79
            assert store.names.count("graced-listeners") == number
            with Graced(
                listen=listen, env=store.environment, before=PASS, pass_fds=store.descriptors
            ) as second:
                client.echo(b"again")
                second.signal(SIGTERM)
                client.expect_farewell_alone()
                client.close()
                assert second.wait() == 0
                assert not second.log.count("^<4>")


@pytest.mark.parametrize("keep", ["restart", "always"])
def test_service_manager_that_comes_late_is_asked_once_more_at_a_restart(
    keep: str, store: FdStore
) -> None:
    """It has not heard anything until then, and gets listeners and clients all the same."""
    hidden = f"{store.name}.hidden"
    os.rename(store.name, hidden)
    config = f'[continuity]\nkeep = "{keep}"'
    env = {**store.environment, **LEFT_TO_THE_KERNEL}
    with Graced(config=config, env=env) as first, first.served() as client:
        first.log.wait_for("^<4>cannot talk to the service manager: .*No such file")
        client.echo(b"hello")
        os.rename(hidden, store.name)
        first.signal(SIGUSR2)
        assert first.wait() == 79
        assert store.count("READY=1") == 1
        with Graced(
            listen=first.addresses,
            config=config,
            env=store.environment,
            before=PASS,
            pass_fds=store.descriptors,
        ) as second:
            client.echo(b"again")
            second.signal(SIGTERM)
            client.expect_farewell_alone()
            client.close()
            assert second.wait() == 0
