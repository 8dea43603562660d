"""docs/fleet: HAProxy, the program itself, before three devices, with the files that are shown."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from signal import SIGKILL, SIGTERM, SIGUSR2

import pytest

from support import PASS, PATIENCE, Client, FdStore, Graced, attempts, environment
from support.control import Operator, environment_in
from support.haproxy import AGENT_PORT, DEVICES, FLEET, NETWORK, HAProxy, device

pytestmark = pytest.mark.needs("haproxy")

NAMES = ("one", "two", "three")
WORKERS = 6
REAL = f"{NETWORK}.77"
"""The address of a client."""


def started(stack: ExitStack, changes: Mapping[str, str] | None = None) -> list[Graced]:
    found = [stack.enter_context(device(number, changes)) for number in range(len(DEVICES))]
    for graced in found:
        graced.log.wait_for("answering agent checks")
    return found


class Load:
    """Clients that connect, are answered and close, all the time."""

    def __init__(self, haproxy: HAProxy) -> None:
        self.failures: list[str] = []
        self.done = 0
        self._haproxy = haproxy
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(f"{NETWORK}.{100 + number}",))
            for number in range(WORKERS)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_failure: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _run(self, source: str) -> None:
        while not self._ended.is_set():
            try:
                with self._haproxy.connect(source) as client:
                    client.echo(b"hello")
                    client.finish()
                    client.expect_end()
            except (OSError, AssertionError) as error:
                self.failures.append(repr(error))
            self.done += 1


def test_rolling_stop_fails_no_request() -> None:
    with ExitStack() as stack:
        devices = started(stack)
        haproxy = stack.enter_context(HAProxy())
        load = stack.enter_context(Load(haproxy))
        for number, graced in enumerate(devices):
            graced.log.wait_for("connection from")
            graced.signal(SIGTERM)
            graced.log.wait_for("the drain begins in 5 s")
            assert graced.wait() == 0
            # The balancer has looked away before: nobody had to be told, and none came later.
            assert graced.stopped[1:] == (0, 0)
            assert not graced.log.count("telling")
            again = stack.enter_context(device(number))
            # The balancer has looked at it again.
            again.log.wait_for("connection from")
        assert load.failures == []
        assert load.done > 0


def test_rolling_upgrade_ends_no_connection() -> None:
    with ExitStack() as stack:
        stores = [FdStore() for _ in DEVICES]
        for store in stores:
            stack.enter_context(store)
        devices = [
            stack.enter_context(device(number, env=store.environment))
            for number, store in enumerate(stores)
        ]
        haproxy = stack.enter_context(HAProxy())
        clients = []
        while not all(graced.log.count("connection from") for graced in devices):
            clients.append(stack.enter_context(haproxy.connect()))
            clients[-1].echo(b"hello")
        load = stack.enter_context(Load(haproxy))
        for number, (graced, store) in enumerate(zip(devices, stores, strict=True)):
            graced.signal(SIGUSR2)
            assert graced.wait() == 79
            again = device(number, env=store.environment, before=PASS, pass_fds=store.descriptors)
            stack.enter_context(again).log.wait_for("connection from")
            for client in clients:
                client.echo(b"still there")
        assert load.failures == []


def test_agent_drives_drain_and_ready() -> None:
    with ExitStack() as stack:
        devices = started(stack, {"lame_duck = 5": "lame_duck = 3600"})
        haproxy = stack.enter_context(HAProxy())
        first = devices[0]
        clients = []
        while not first.log.count("connection from"):
            clients.append(stack.enter_context(haproxy.connect()))
            clients[-1].echo(b"hello")
        first.signal(SIGTERM)
        haproxy.log.wait_for("Server devices/one enters drain state")
        before = first.log.count("connection from")
        for _ in range(6):
            with haproxy.connect() as client:
                client.echo(b"hello")
        assert first.log.count("connection from") == before
        # Those that there are stay.
        for client in clients:
            client.echo(b"still there")


def test_weight_follows_what_is_free() -> None:
    with ExitStack() as stack:
        # A health check of the balancer has a place for a moment, too.
        stack.enter_context(device(0, {"[log]": "[limits]\nmax_clients = 4\n[log]"}))
        haproxy = stack.enter_context(HAProxy())
        for name in NAMES[1:]:
            haproxy.log.wait_for(f"Server devices/{name} is DOWN")
        clients = []
        for weight in (75, 50, 25):
            # No other device is there: it has to get clients while there is room.
            clients.append(stack.enter_context(haproxy.connect()))
            clients[-1].echo(b"hello")
            haproxy.wait_for_weight("one", weight)
        for client in clients:
            client.echo(b"still there")
            client.close()
        haproxy.wait_for_weight("one", 100)


def test_full_device_gets_no_further_client() -> None:
    with ExitStack() as stack:
        full = stack.enter_context(device(0, {"[log]": "[limits]\nmax_clients = 1\n[log]"}))
        # Not from the address of the balancer.
        place = (DEVICES[0], 9999)
        sock = socket.create_connection(place, PATIENCE, source_address=(REAL, 0))
        own = stack.enter_context(Client(sock))
        own.echo(b"hello")
        other = stack.enter_context(device(1))
        haproxy = stack.enter_context(HAProxy())
        haproxy.wait_for_weight("one", 0)
        for _ in range(4):
            with haproxy.connect() as client:
                client.echo(b"hello")
        other.log.wait_for("connection from", 4)
        own.echo(b"still there")
        assert full.log.count("connection from") == 1


def test_real_address_is_in_log_and_list_of_clients(tmp_path: Path) -> None:
    with ExitStack() as stack:
        graced = stack.enter_context(device(0, env=environment_in(tmp_path)))
        haproxy = stack.enter_context(HAProxy())
        client = stack.enter_context(haproxy.connect(REAL))
        client.echo(b"hello")
        port = client.sock.getsockname()[1]
        graced.log.wait_for(f"connection from {REAL}:{port}$")
        with Operator.of(tmp_path) as operator:
            assert [row["client"] for row in operator.clients()] == [f"{REAL}:{port}"]
        done = subprocess.run(
            [
                *(sys.executable, "-m", "graced.ctl.gracectl", "clients"),
                *("--socket", str(tmp_path / "control")),
            ],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        assert f"{REAL}:{port}" in done.stdout


def test_killed_device_ends_its_own_clients_only() -> None:
    with ExitStack() as stack:
        devices = started(stack)
        haproxy = stack.enter_context(HAProxy())
        clients = []
        while not all(graced.log.count("connection from") for graced in devices):
            clients.append(stack.enter_context(haproxy.connect()))
            clients[-1].echo(b"hello")
        for _ in attempts("all clients are in the logs"):
            numbers = [graced.log.count("connection from") for graced in devices]
            if sum(numbers) == len(clients):
                break
        assert devices[0].stop(SIGKILL) == -SIGKILL
        with haproxy.connect() as new:
            new.echo(b"hello")
        ended = 0
        for client in clients:
            try:
                client.echo(b"still there")
            except (AssertionError, OSError):
                ended += 1
        assert ended == numbers[0]


def test_page_and_files_agree() -> None:
    page = (FLEET / "README.md").read_text()
    assert f"{AGENT_PORT}" in page
    for file in FLEET.iterdir():
        assert file.name == "README.md" or f"({file.name})" in page
    text = (FLEET / "haproxy.cfg").read_text()
    for number, name in enumerate(NAMES, 1):
        assert f'server {name} "${{DEVICE_{number}-192.0.2.1{number}}}:9999"' in text
