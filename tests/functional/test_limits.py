"""What clients may not do, and how they are told."""

from __future__ import annotations

import os
import re
import resource
import select
import socket
from contextlib import ExitStack
from pathlib import Path
from signal import SIGTERM

import pytest

from support import FAREWELL, Client, Graced, attempts, run_graced


def test_client_beyond_limit_is_told_and_logged(handler: str, address: str) -> None:
    config = "[limits]\nmax_clients = 2"
    with (
        Graced("--handler", handler, listen=address, config=config) as graced,
        graced.connect() as one,
        graced.connect() as two,
    ):
        for client in (one, two):
            client.echo(b"hello")
        for sends_first in (b"", b"hello?" * 100):
            with graced.connect() as late:
                late.send(sends_first)
                assert late.recv_to_end() == FAREWELL
        graced.log.wait_for(r"^<4>refused \d clients?, the last from \S+: max_clients = 2 reached$")
        two.close()
        graced.log.wait_for("closing connection")
        with graced.connect() as three:
            three.echo(b"hello")
        one.echo(b"still there")


def test_many_refusals_are_few_lines() -> None:
    with Graced(config="[limits]\nmax_clients = 1") as graced, graced.served() as only:
        for _ in range(100):
            with graced.connect() as late:
                assert late.recv_to_end() == FAREWELL
        lines = 1
        while sum(int(m[1]) for m in graced.log.matches(r"refused (\d+) clients?,")) < 100:
            lines += 1
            graced.log.wait_for("refused", lines)
        assert graced.log.count("refused") < 50
        assert graced.log.count("connection from") == 1
        only.echo(b"hello")


def test_host_is_limited_to_its_share() -> None:
    with (
        Graced(config="[limits]\nmax_clients_per_host = 1") as graced,
        graced.connect() as first,
    ):
        first.echo(b"hello")
        with graced.connect() as second:
            assert second.recv_to_end() == FAREWELL
        host, _, port = graced.addresses[0].rpartition(":")
        elsewhere = socket.create_connection((host, int(port)), source_address=("127.0.0.2", 0))
        with Client(elsewhere) as other:
            other.echo(b"hello")
        first.close()
        graced.log.wait_for(f"closing connection from {host}")
        with graced.served() as third:
            third.echo(b"hello")


def test_clients_of_unix_socket_are_no_host(tmp_path: object) -> None:
    config = "[limits]\nmax_clients_per_host = 1"
    with Graced(listen=f"unix:{tmp_path}/socket", config=config) as graced, ExitStack() as stack:
        for client in [stack.enter_context(graced.connect()) for _ in range(5)]:
            client.echo(b"hello")


def test_only_idle_clients_are_closed() -> None:
    with (
        Graced(config="[limits]\nidle_timeout = 1") as graced,
        graced.connect() as idle,
        graced.connect() as busy,
        graced.served() as silent,
    ):
        idle.echo(b"hello")
        silent_too = select.poll()
        silent_too.register(silent.sock, select.POLLIN)
        for _ in attempts("the silent client is closed"):
            busy.echo(b"hello")
            if silent_too.poll(20):
                break
        for client in (idle, silent):
            client.expect_end()
        graced.log.wait_for("closing connection from .*: idle, 5 bytes echoed in 1")
        graced.log.wait_for("closing connection from .*: idle, 0 bytes echoed in 1")
        busy.echo(b"still there")


def test_idle_client_is_closed_before_its_handler_begins() -> None:
    options = ("--handler", "echo-threaded")
    with (
        Graced(*options, config="[limits]\nidle_timeout = 0.5") as graced,
        graced.connect() as silent,
    ):
        silent.expect_end()
        graced.log.wait_for("closing connection from .*: idle, 0 bytes")


@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
def test_client_that_does_not_read_is_closed(handler: str, address: str) -> None:
    options = ("--handler", handler)
    with (
        Graced(*options, listen=address, config="[limits]\nstall_timeout = 0.5") as graced,
        graced.connect() as deaf,
        graced.connect() as client,
    ):
        with pytest.raises(ConnectionError):
            deaf.send(b"x" * 100_000_000)
        graced.log.wait_for("closing connection from .*: stalled, ")
        client.echo(b"hello")


def test_handlers_beyond_limit_wait_for_thread() -> None:
    config = "[limits]\nmax_handler_threads = 2"
    with Graced("--handler", "echo-threaded", config=config) as graced, ExitStack() as stack:
        first, second, third, fourth = [stack.enter_context(graced.connect()) for _ in range(4)]
        for client in (first, second):
            client.echo(b"hello")
        for client in (third, fourth):
            client.send(b"my turn?")
        graced.log.wait_for("<6>connection from", 4)
        for client in (first, second):
            client.echo(b"not yet")
        waiting = select.poll()
        waiting.register(third.sock, select.POLLIN)
        waiting.register(fourth.sock, select.POLLIN)
        assert not waiting.poll(300)
        first.close()
        second.close()
        for client in (third, fourth):
            assert client.recv_exactly(8) == b"my turn?"


def test_client_that_waits_for_handler_is_told_and_served_in_drain() -> None:
    config = "[limits]\nmax_handler_threads = 1"
    options = ("--handler", "echo-threaded", "--grace", "30")
    with (
        Graced(*options, config=config) as graced,
        graced.connect() as first,
        graced.connect() as second,
    ):
        first.echo(b"hello")
        second.send(b"my turn?")
        graced.log.wait_for("<6>connection from", 2)
        graced.signal(SIGTERM)
        for client in (first, second):
            client.expect_farewell_alone()
        first.close()
        assert second.recv_exactly(8) == b"my turn?"
        second.echo(b"thank you")
        second.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (2, 0)


def test_clients_beyond_descriptors_wait_and_are_served_later(handler: str) -> None:
    """The article's server tries 235,000 times a second, and aborts at its end."""
    with (
        Graced("--handler", handler, "--grace", "30") as graced,
        graced.connect() as client,
        ExitStack() as stack,
    ):
        client.echo(b"hello")
        before = resource.prlimit(graced.pid, resource.RLIMIT_NOFILE)
        highest = max(int(fd) for fd in os.listdir(f"/proc/{graced.pid}/fd"))
        resource.prlimit(graced.pid, resource.RLIMIT_NOFILE, (highest + 1, before[1]))
        waiting = [stack.enter_context(graced.connect()) for _ in range(5)]
        for late in waiting:
            late.send(b"hello?")
        graced.log.wait_for(
            r"^<4>cannot accept clients \(Too many open files\), trying again every 0.5 s$"
        )
        client.echo(b"still served")
        used = process_time(graced.pid)
        nothing = select.poll()
        nothing.register(waiting[0].sock, select.POLLIN)
        assert not nothing.poll(1200)
        assert process_time(graced.pid) - used < 0.2
        resource.prlimit(graced.pid, resource.RLIMIT_NOFILE, before)
        for late in waiting:
            assert late.recv_exactly(6) == b"hello?"
        graced.log.wait_for("^<6>accepting clients again$")
        assert graced.log.count("cannot accept clients") == 1
        stack.close()
        client.close()
        assert graced.stop() == 0


def test_drain_without_descriptors_is_drain_all_same() -> None:
    with Graced("--grace", "1") as graced, graced.served() as client, ExitStack() as stack:
        before = resource.prlimit(graced.pid, resource.RLIMIT_NOFILE)
        highest = max(int(fd) for fd in os.listdir(f"/proc/{graced.pid}/fd"))
        resource.prlimit(graced.pid, resource.RLIMIT_NOFILE, (highest + 1, before[1]))
        for _ in range(5):
            stack.enter_context(graced.connect())
        graced.log.wait_for("cannot accept clients")
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        client.echo(b"hello")
        assert graced.wait() == 0
        assert 1 <= graced.stopped.seconds < 5


def process_time(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_more_clients_than_descriptors_are_contradiction_at_start() -> None:
    # Even root may not exceed the hard limit without CAP_SYS_RESOURCE (24).
    before = (
        "import ctypes, resource\n"
        "PR_CAPBSET_DROP = 24\n"
        "ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, 24, 0, 0, 0)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 2000))"
    )
    found = run_graced("--config", "/dev/null", before=before)
    assert found.returncode == 78
    assert re.fullmatch(
        r"graced: limits.max_clients = 4096 needs \d+ descriptors,"
        r" but the limit \(RLIMIT_NOFILE\) is \d+\n",
        found.stderr,
    )


def test_limit_of_descriptors_is_raised_for_clients() -> None:
    before = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (100, 2000))"
    with (
        Graced(before=before, config="[limits]\nmax_clients = 300") as graced,
        ExitStack() as stack,
    ):
        for client in [stack.enter_context(graced.connect()) for _ in range(300)]:
            client.echo(b"hello")
