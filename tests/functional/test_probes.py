"""Connections without a byte, as health checks make them, can be left out of the log."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL, SIGTERM, SIGUSR1, SIGUSR2
from typing import Any

import pytest

from support import PASS, Client, FdStore, Graced

QUIET = "[log]\nprobes = false\n"
HANDLERS = ["echo", "echo-threaded", "support.streams:MovableEcho"]


def status_of(graced: Graced, text: str) -> None:
    """Wait until the status line has a text: a client that has gone is noticed a moment later."""
    while True:
        count = graced.log.count("<6>serving: ")
        graced.signal(SIGUSR1)
        if text in graced.log.wait_for("<6>serving: (.*)$", count + 1)[1]:
            return


def records(graced: Graced, client: Client) -> list[str]:
    """The beginnings of the records about a client."""
    return [line.split(client.name)[0] for line in graced.log.lines if client.name in line]


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_probe_is_counted_and_not_logged(handler: str, kind: str, tmp_path: Path) -> None:
    listen = "127.0.0.1:0" if kind == "tcp" else f"unix:{tmp_path}/socket"
    with Graced("--handler", handler, listen=listen, config=QUIET) as graced:
        for _ in range(3):
            graced.connect().close()
        status_of(graced, "0 clients now, 3 so far (3 without a byte), ")
        with graced.connect() as reset:
            reset.reset()
        status_of(graced, "4 so far (4 without a byte), ")
        with graced.connect() as client:
            client.echo(b"hello")
            graced.log.wait_for("^<6>connection from ")
            client.echo(b"again")
        graced.log.wait_for("^<6>closing connection from .*: .*, 10 bytes echoed in ")
        status_of(graced, "0 clients now, 5 so far (4 without a byte), 10 bytes echoed")
        graced.signal(SIGTERM)
        assert graced.wait() == 0
        assert graced.log.count("connection from ") == 2


@pytest.mark.parametrize("handler", HANDLERS)
def test_silent_client_that_is_told_is_logged_at_its_end(handler: str) -> None:
    """The farewell is a byte: the log says who was there."""
    with Graced("--handler", handler, "--grace", "30", config=QUIET) as graced:
        with graced.connect() as client:
            name = client.name
            status_of(graced, "1 client now")
            graced.signal(SIGTERM)
            client.expect_farewell_alone()
            client.close()
        assert graced.wait() == 0
        assert graced.log.count(f"^<6>connection from {name}$") == 1
        assert graced.log.count(f"^<6>closing connection from {name}: ") == 1


@pytest.mark.parametrize("handler", HANDLERS)
def test_inherited_client_is_logged_once(store: FdStore, handler: str) -> None:
    """One has spoken before the restart, one speaks after it, and one never does."""
    options = ("--handler", handler)
    with Graced(*options, config=QUIET, env=store.environment) as first:
        (address,) = first.addresses
        spoken, speaks, silent = (Client.connect(address) for _ in range(3))
        spoken.echo(b"hello")
        status_of(first, "3 clients now")
        first.signal(SIGUSR2)
        assert first.wait() == 79
        assert records(first, spoken) == ["<6>connection from "]
        assert records(first, speaks) == records(first, silent) == []
    second = Graced(
        *options,
        listen=address,
        config=QUIET,
        env=store.environment,
        before=PASS,
        pass_fds=store.descriptors,
    )
    with second:
        speaks.echo(b"now")
        second.log.wait_for(f"^<6>connection from {speaks.name}$")
        names = [spoken, speaks]
        ends = [f"^<6>closing connection from {client.name}: " for client in names]
        for client in (silent, spoken, speaks):
            client.close()
        for end in ends:
            second.log.wait_for(end)
        status_of(second, "0 clients now, 3 so far (1 without a byte), ")
        second.signal(SIGTERM)
        assert second.wait() == 0
        assert second.log.count("<6>connection from ") == 1
        assert second.log.count("<6>closing connection from ") == 2


@pytest.mark.parametrize("handler", HANDLERS)
def test_number_of_probes_survives_a_restart(handler: str, store: FdStore) -> None:
    with Graced("--handler", handler, config=QUIET, env=store.environment) as first:
        (address,) = first.addresses
        for _ in range(3):
            first.connect().close()
        status_of(first, "0 clients now, 3 so far (3 without a byte), ")
        store.wait_for("FDNAME=graced-clients")
        first.signal(SIGUSR2)
        assert first.wait() == 79
    second = Graced(
        "--handler",
        handler,
        listen=address,
        config=QUIET,
        env=store.environment,
        before=PASS,
        pass_fds=store.descriptors,
    )
    with second:
        second.connect().close()
        status_of(second, "0 clients now, 4 so far (4 without a byte), ")


def test_end_of_a_client_that_outlives_a_crash_is_logged(store: FdStore) -> None:
    """Nothing is known of it, and so it is no probe."""
    config = QUIET + "[continuity]\nkeep = 'always'\n"
    with Graced(config=config, env=store.environment) as first:
        (address,) = first.addresses
        client = first.connect()
        client.echo(b"hello")
        store.wait_for("FDNAME=graced-clients")
        os.kill(first.pid, SIGKILL)
        first.process.wait()
    options: dict[str, Any] = {
        "env": store.environment,
        "before": PASS,
        "pass_fds": store.descriptors,
    }
    with Graced(listen=address, config=config, **options) as second:
        name = client.name
        client.close()
        second.log.wait_for(f"^<6>closing connection from {name}: ")
        second.signal(SIGTERM)
        assert second.wait() == 0


def test_client_of_a_handler_that_speaks_first_is_logged_at_once() -> None:
    with Graced("--handler", "support.foreign:Greeting", config=QUIET) as graced:
        with graced.connect() as client:
            assert client.recv_exactly(10) == b"220 hello\n"
            graced.log.wait_for("^<6>connection from ")
        graced.log.wait_for("^<6>closing connection from ")
        graced.signal(SIGTERM)
        assert graced.wait() == 0


@pytest.mark.parametrize("handler", HANDLERS)
def test_probes_are_logged_by_default(handler: str) -> None:
    with Graced("--handler", handler) as graced:
        graced.connect().close()
        graced.log.wait_for("^<6>closing connection from ")
        status_of(graced, "0 clients now, 1 so far, 0 bytes echoed")
        graced.signal(SIGTERM)
        assert graced.wait() == 0
        assert graced.log.count("connection from ") == 2


def half_close(client: Client) -> None:
    """End of file first, the close later: as a check with shutdown(2) does."""
    client.finish()
    client.recv_to_end()
    client.close()


def reset(client: Client) -> None:
    """A half-open probe: RST in the place of a goodbye."""
    client.reset()


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("end", [half_close, reset])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_probe_of_any_end_is_a_probe(
    handler: str, end: Callable[[Client], None], kind: str, tmp_path: Path
) -> None:
    listen = "127.0.0.1:0" if kind == "tcp" else f"unix:{tmp_path}/socket"
    with Graced("--handler", handler, "--grace", "30", listen=listen, config=QUIET) as graced:
        end(graced.connect())
        status_of(graced, "0 clients now, 1 so far (1 without a byte), ")
        graced.signal(SIGTERM)
        assert graced.wait() == 0
        assert not graced.log.count("connection from ")


@pytest.mark.parametrize("handler", HANDLERS)
def test_probes_in_the_queue_between_two_processes_are_probes(handler: str, store: FdStore) -> None:
    """One has gone, one with RST, when the next process comes; the third goes then."""
    options = ("--handler", handler)
    with Graced(*options, config=QUIET, env=store.environment) as first:
        (address,) = first.addresses
        store.wait_for("FDNAME=graced-clients")
        first.signal(SIGUSR2)
        assert first.wait() == 79
    gone, broken, waits = (Client.connect(address) for _ in range(3))
    gone.close()
    broken.reset()
    more: dict[str, Any] = {"env": store.environment, "before": PASS}
    with (
        waits,
        Graced(
            *options, listen=address, config=QUIET, pass_fds=store.descriptors, **more
        ) as second,
    ):
        status_of(second, "1 client now, 3 so far (2 without a byte), ")
        waits.close()
        status_of(second, "0 clients now, 3 so far (3 without a byte), ")
        second.signal(SIGTERM)
        assert second.wait() == 0
        assert not second.log.count("connection from ")
        assert not second.log.count("^<[0-4]>")
