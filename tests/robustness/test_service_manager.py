"""A service manager that does not take a message: nothing is lost, and no healthy daemon killed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from signal import SIGTERM, SIGUSR2
from time import monotonic

import pytest

from graced.handover import fdstore
from robustness.strace import Fault, Injection, Traced
from support import PASS, PATIENCE, FdStore, Graced, fill_queue
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
def test_one_refused_message_does_not_silence_daemon(error: str, store: FdStore) -> None:
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


@pytest.mark.needs("strace")
@pytest.mark.parametrize("error", ["ENOBUFS", "ENOMEM", "EAGAIN"])
def test_start_is_complete_although_message_is_refused(error: str, store: FdStore) -> None:
    with Traced(Fault("sendto", f"error={error}", when="1"), env=store.environment) as graced:
        store.wait_for("READY=1")
        graced.serving()
        assert graced.stop() == 0
        assert len(graced.hits) > 0


class Deaf:
    """A service manager that does not read, whose queue another program has filled."""

    def __init__(self, path: Path) -> None:
        self.environment = {"NOTIFY_SOCKET": str(path)}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(PATIENCE)

    def __enter__(self) -> Deaf:
        return self

    def __exit__(self, *_failure: object) -> None:
        self.socket.close()

    def fill(self) -> None:
        fill_queue(self.environment["NOTIFY_SOCKET"])

    def read_until(self, text: str) -> int:
        """Read messages to the first that has the text; return the number of descriptors in it."""
        while True:
            data, fds, _, _ = socket.recv_fds(self.socket, 65536, 253)
            for fd in fds:
                os.close(fd)
            if text in data.decode():
                return len(fds)


def test_stop_does_not_wait_for_service_manager_that_does_not_read(tmp_path: Path) -> None:
    """The removal of the listeners from the store comes after the deadline."""
    with (
        Deaf(tmp_path / "notify") as deaf,
        Graced("--grace", "0.5", env=deaf.environment) as graced,
        graced.served() as client,
    ):
        deaf.read_until("graced-clients")
        deaf.fill()
        began = monotonic()
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        assert graced.wait() == 0
        assert monotonic() - began < 0.5 + 2.0


def test_handover_does_not_wait_for_deaf_service_manager(tmp_path: Path) -> None:
    with Deaf(tmp_path / "notify") as deaf, Graced(env=deaf.environment) as graced:
        deaf.read_until("graced-clients")
        deaf.fill()
        began = monotonic()
        graced.signal(SIGUSR2)
        assert graced.wait() == 79
        assert monotonic() - began < fdstore.SETTLE_TIMEOUT
        assert graced.log.count("handing over 0 clients")


def test_client_of_busy_moment_is_mirrored_when_moment_is_over(tmp_path: Path) -> None:
    """Without another client, and although the main thread sleeps."""
    config = '[continuity]\nkeep = "always"'
    with (
        Deaf(tmp_path / "notify") as deaf,
        Graced(config=config, env=deaf.environment) as graced,
        ExitStack() as crowd,
    ):
        deaf.read_until("graced-clients")
        deaf.fill()
        for _ in range(201):
            crowd.enter_context(graced.connect()).echo(b"hello")
        # The bundle is renewed after 200 clients.
        assert deaf.read_until("FDSTORE=1\nFDNAME=graced-kept") == 1
        crowd.close()
        assert graced.stop() == 0


@pytest.mark.parametrize("number", [253, 254, 400])
def test_many_listeners_outlive_restart(number: int, store: FdStore, tmp_path: Path) -> None:
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
def test_service_manager_that_comes_late_is_asked_once_more_at_restart(
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
