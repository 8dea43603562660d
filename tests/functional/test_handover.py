"""From one process to the next, with a service manager that has a store; device/ has systemd."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
from pathlib import Path
from signal import SIGKILL, SIGTERM, SIGUSR1, SIGUSR2
from typing import Any

import pytest

from support import FAREWELL, PASS, Client, FdStore, Graced, run_graced, settled

LISTENERS, CLIENTS, MIRRORED = "graced-listeners", "graced-clients", "graced-kept"

NUMBERS = itertools.count()
FAILURES = ["KilledHandler", "FailingStartHandler"]
"""Of support.faulty: what fails in the daemon, after the fork, and is tried again."""


def stored(store: FdStore) -> list[tuple[str, int]]:
    """The names in the store with the inodes of the descriptors, when all messages are handled."""
    text = f"X_SETTLED={next(NUMBERS)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(text.encode(), store.name)
    store.wait_for(text)
    inodes = [os.fstat(fd).st_ino for fd in store.descriptors]
    return list(zip(store.names, inodes, strict=True))


def start(store: FdStore) -> dict[str, Any]:
    """What the service manager gives the next process of the service."""
    return {"env": store.environment, "before": PASS, "pass_fds": store.descriptors}


def status(graced: Graced) -> str:
    """The status line that SIGUSR1 logs."""
    count = graced.log.count("<6>serving: ")
    graced.signal(SIGUSR1)
    return graced.log.wait_for(r"<6>serving: (.*)$", count + 1)[1]


@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
@pytest.mark.parametrize("stays", [True, False], ids=["client", "no client"])
def test_counts_survive_handover(store: FdStore, handler: str, stays: bool) -> None:
    with Graced("--handler", handler, **start(store)) as first:
        with first.connect() as client:
            client.echo(b"hello")
        first.log.wait_for("<6>closing connection")
        client = first.connect()
        with client:
            client.echo(b"here")
            if not stays:
                client.close()
                first.log.wait_for("<6>closing connection", 2)
            assert "2 so far" in status(first)
            first.signal(SIGUSR2)
            assert first.wait() == 79
            address = first.addresses[0]
            next_start = Graced(
                "--handler",
                handler,
                listen=address,
                **start(store),
            )
            with next_start as second:
                if stays:
                    client.echo(b"again")
                    # A byte is counted a moment after its client has it.
                    assert settled(second.pid)
                found = status(second)
                assert "2 so far" in found
                assert found.startswith("1 client now" if stays else "0 clients now")
                if handler == "echo":
                    assert f"{5 + 4 + 5 * stays} bytes echoed" in found
                client.close()
                with second.connect() as third:
                    third.echo(b"new")
                    assert "3 so far" in status(second)
                assert second.stop(SIGTERM) == 0


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_failed_start_changes_nothing_in_store(
    store: FdStore, tmp_path: Path, failure: str, kind: str
) -> None:
    """After a crash; the start after the failed one serves all clients."""
    always = '[continuity]\nkeep = "always"'
    address = "127.0.0.1:0" if kind == "tcp" else f"unix:{tmp_path}/socket"
    with Graced(
        config=always,
        listen=address,
        **start(store),
    ) as first:
        (address,) = first.addresses
        client = first.connect()
        client.echo(b"hello")
        os.kill(first.pid, SIGKILL)
        first.process.wait()
    with client, Client.connect(address) as queued:
        before = stored(store)
        assert [name for name, _ in before] == [MIRRORED, LISTENERS, CLIENTS]
        failed = start_fails(store, tmp_path, failure, address)
        assert failed.returncode != 0
        assert stored(store) == before
        again = Graced(
            config=always,
            listen=address,
            **start(store),
        )
        with again as second:
            client.echo(b"still here")
            queued.echo(b"at last")
            second.signal(SIGTERM)
            for each in (client, queued):
                each.expect_farewell_alone()
                each.close()
            assert second.wait() == 0


@pytest.mark.parametrize("failure", [*FAILURES, "FullDiskHandler"])
def test_failed_first_start_leaves_nothing(store: FdStore, tmp_path: Path, failure: str) -> None:
    address = f"unix:{tmp_path}/socket"
    assert start_fails(store, tmp_path, failure, address).returncode != 0
    # The full disk may have room at the next start, which goes on without a pidfile.
    refused = ["graced-refused"] * (failure == "FullDiskHandler")
    assert [name for name, _ in stored(store)] == refused
    if failure != "KilledHandler":
        assert not (tmp_path / "socket").exists()


def test_start_that_is_refused_tells_clients_in_queue(store: FdStore, tmp_path: Path) -> None:
    """There is no other start after a wrong configuration."""
    with Graced(**start(store)) as first:
        (address,) = first.addresses
        first.signal(SIGUSR2)
        assert first.wait() == 79
    with Client.connect(address) as queued:
        refused = run_graced(
            "--config",
            "/dev/null",
            "--listen",
            address,
            "--listen",
            address,
            **start(store),
        )
        assert refused.returncode == 78
        assert queued.recv_to_end() == FAREWELL


def test_clients_in_queue_of_address_that_is_no_more_are_told(
    store: FdStore, tmp_path: Path
) -> None:
    old = f"unix:{tmp_path}/old"
    with (
        Graced(listen=old, **start(store)) as first,
        first.served() as client,
    ):
        first.signal(SIGUSR2)
        assert first.wait() == 79
        with Client.connect(old) as queued:
            new = f"unix:{tmp_path}/new"
            with Graced(listen=new, **start(store)) as second:
                assert queued.recv_to_end() == FAREWELL
                client.echo(b"still here")
                second.signal(SIGTERM)
                client.expect_farewell_alone()
                client.close()
                assert second.wait() == 0
    assert os.listdir(tmp_path) == []


def start_fails(
    store: FdStore, directory: Path, failure: str, address: str
) -> subprocess.CompletedProcess[str]:
    """A forked start that fails in the daemon."""
    config = directory / "graced.toml"
    config.write_text('[continuity]\nkeep = "always"')
    failed = run_graced(
        "--daemon",
        "--pid-file",
        str(directory / "graced.pid"),
        "--config",
        str(config),
        "--listen",
        address,
        "--handler",
        f"support.faulty:{failure}",
        **start(store),
    )
    config.unlink()
    return failed


@pytest.mark.parametrize("failure", FAILURES)
def test_failed_start_leaves_handed_over_clients_to_next(
    store: FdStore, tmp_path: Path, failure: str
) -> None:
    with Graced(**start(store)) as first:
        (address,) = first.addresses
        client = first.served()
        client.echo(b"hello")
        first.signal(SIGUSR2)
        assert first.wait() == 79
    with client:
        before = stored(store)
        assert start_fails(store, tmp_path, failure, address).returncode != 0
        assert stored(store) == before
        with Graced(listen=address, **start(store)) as second:
            client.echo(b"still here")
            second.signal(SIGTERM)
            client.expect_farewell_alone()
            client.close()
            assert second.wait() == 0


def test_failed_start_tells_clients_of_queue_that_had_to_go(store: FdStore, tmp_path: Path) -> None:
    """The path is bound afresh, as its mode is to be another: the store has the client no more."""
    address = f"unix:{tmp_path}/socket"
    with Graced(listen=address, **start(store)) as first:
        first.signal(SIGUSR2)
        assert first.wait() == 79
    with Client.connect(address) as queued:
        (tmp_path / "socket").chmod(0o600)
        assert start_fails(store, tmp_path, "FailingStartHandler", address).returncode == 1
        assert queued.recv_to_end() == FAREWELL
