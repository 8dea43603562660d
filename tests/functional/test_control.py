"""The control socket of a graced that runs, and gracectl at the other end."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path
from signal import SIGKILL, SIGTERM, SIGUSR2
from typing import Any

import pytest

from support import PASS, PATIENCE, Activity, Daemon, FdStore, Graced, settled
from support.control import CONTROL, Operator, environment_in
from support.process import LEFT_TO_THE_KERNEL

CROWD = 300
"""Clients whose list is longer than what a kernel buffers for a peer with small buffers."""


def test_clients_of_each_kind_are_seen(handler: str, address: str, tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    env = environment_in(runtime)
    with (
        Graced("--handler", handler, listen=address, env=env) as graced,
        graced.served() as silent,
        graced.served() as client,
        Operator.of(runtime) as operator,
    ):
        silent.sock.setblocking(True)
        client.echo(b"hello")
        found = {row["client"]: row for row in operator.clients()}
        assert len(found) == 2
        if address.startswith("unix:"):
            assert set(found) == {f"{address}#1", f"{address}#2"}
            row = found[f"{address}#2"]
            assert (row["kind"], row["sent"], row["received"]) == ("unix", 5, None)
        else:
            assert set(found) == {silent.name, client.name}
            row = found[client.name]
            assert (row["kind"], row["sent"], row["received"]) == ("ipv4", 5, 5)
        phases = {"echo": "active", "support.streams:TellingEcho": "streaming"}
        assert row["phase"] == phases.get(handler, "in_handler")
        assert row["told"] is False
        assert 0 <= row["idle"] <= row["age"] < PATIENCE
        status = operator.status()
        assert (status["clients"], status["handler"]) == (2, handler)
        assert status["listeners"] == graced.addresses
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        silent.expect_farewell_alone()
        assert all(row["told"] for row in operator.clients())
        status = operator.status()
        assert (status["state"], status["clients"]) == ("draining", 2)
        assert 0 < status["drain"]["secondsLeft"] <= 5
        client.close()
        silent.close()
        assert graced.wait() == 0
        with pytest.raises((EOFError, ConnectionResetError, BrokenPipeError)):
            operator.status()
        assert os.listdir(runtime) == []


def test_service_that_nobody_asks_has_no_thread_for_it(tmp_path: Path) -> None:
    with Graced(env=environment_in(tmp_path)) as graced:
        assert settled(graced.pid)
        before = Activity(graced.pid)
        # The main thread, the log, the I/O thread.
        assert len(before) == 3
        with Operator.of(tmp_path) as operator:
            assert operator.status()["clients"] == 0
            # A peer that asks nothing costs nothing.
            assert settled(graced.pid)
            assert len(Activity(graced.pid)) == 4
        while len(Activity(graced.pid)) > 3:
            os.sched_yield()
        assert settled(graced.pid)


def test_peer_that_never_reads_delays_no_client(tmp_path: Path) -> None:
    with (
        Graced(env=environment_in(tmp_path)) as graced,
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(graced.connect()) for _ in range(CROWD)]
        for client in clients:
            client.echo(b"hello")
        slow = stack.enter_context(Operator.of(tmp_path))
        slow.send_until_full(f"{CONTROL}.ListClients")
        operator = stack.enter_context(Operator.of(tmp_path))
        for client in clients:
            client.echo(b"still served")
        assert len(operator.clients()) == operator.status()["clients"] == CROWD
        # Nor a stop.
        for client in clients:
            client.close()
        assert graced.stop() == 0
        assert graced.stopped.seconds < 2


def test_restart_binds_it_anew(store: FdStore, tmp_path: Path) -> None:
    def start() -> dict[str, Any]:
        env = {**store.environment, **environment_in(tmp_path), **LEFT_TO_THE_KERNEL}
        return {"env": env, "before": PASS, "pass_fds": store.descriptors}

    with Graced(**start()) as first, first.served() as client:
        client.echo(b"hello")
        with Operator.of(tmp_path) as operator:
            assert operator.status()["inherited"] is None
            first.signal(SIGUSR2)
            assert first.wait() == 79
            with pytest.raises((EOFError, ConnectionResetError, BrokenPipeError)):
                operator.status()
        # Nobody listens, and the file is there: as after a crash.
        assert (tmp_path / "control").is_socket()
        with Graced(**start()) as second, Operator.of(tmp_path) as operator:
            status = operator.status()
            assert (status["pid"], status["clients"], status["admitted"]) == (second.pid, 1, 1)
            assert status["inherited"]["clients"] == 1
            assert status["inherited"]["milliseconds"] >= 0
            (row,) = operator.clients()
            assert (row["client"], row["sent"]) == (client.name, 5)
            second.signal(SIGKILL)
            second.wait()
        with Graced(**start()) as third, Operator.of(tmp_path) as operator:
            assert operator.status()["pid"] == third.pid


def test_daemon_has_it(tmp_path: Path) -> None:
    env = {**environment_in(tmp_path), "SYSTEMD_EXEC_PID": "1"}
    with Daemon(env=env) as daemon:
        # Of another process: the terminal's that starts us.
        assert os.listdir(tmp_path) == []
    with Daemon(env=environment_in(tmp_path)) as daemon, Operator.of(tmp_path) as operator:
        assert operator.status()["pid"] == daemon.pid


def test_service_without_it_serves(tmp_path: Path) -> None:
    (tmp_path / "control").write_text("mine")
    with Graced(env=environment_in(tmp_path)) as graced, graced.connect() as client:
        graced.log.wait_for(
            rf"<4>no control socket at {tmp_path}/control: the file is not a socket$"
        )
        client.echo(b"hello")


def test_listener_at_its_path_stays(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/control"
    with Graced(listen=address, env=environment_in(tmp_path)) as graced:
        graced.log.wait_for(
            rf"<4>no control socket at {tmp_path}/control: it is an address for clients$"
        )
        with graced.connect() as client:
            client.echo(b"hello")


def test_hostile_peers_do_no_harm(tmp_path: Path) -> None:
    with Graced(env=environment_in(tmp_path)) as graced, graced.connect() as client:
        hostile = [b"\0", b"{}\0", b"[" * 70000, b"{" * 9000 + b"\0", b"\xff" * 70000 + b"\0"]
        for data in hostile * 5:
            with Operator.of(tmp_path) as operator:
                try:
                    operator.sock.sendall(data)
                    operator.sock.shutdown(socket.SHUT_WR)
                    assert operator.sock.recv(1) == b""
                except (BrokenPipeError, ConnectionResetError):
                    pass
            client.echo(b"still served")
        # More than there are places for.
        with ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(Operator.of(tmp_path))
                client.echo(b"still served")
        assert not graced.log.count("control socket has failed")
        client.close()
        assert graced.stop() == 0
