"""Clients behind a proxy that speaks the PROXY protocol: who they are, for everything that asks."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from signal import SIGTERM, SIGUSR1, SIGUSR2
from typing import Any

import pytest

from support import FAREWELL, PASS, Client, FdStore, Graced, run_graced, settled
from support.proxy import LOCAL, SIGNATURE, UNSPEC, head, v1, v2

PROXIES = "[server]\nproxy_protocol = ['127.0.0.0/30', 'unix']\n"
KINDS = {
    "blocking": "support.naming:Blocking",
    "stream": "support.naming:Stream",
    "asyncio": "support.naming:Asyncio",
}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
versions = pytest.mark.parametrize("header", [v1, v2], ids=["v1", "v2"])
Header = Callable[[str, int], bytes]


def connect(graced: Graced, source: str = "127.0.0.1") -> Client:
    host, _, port = graced.addresses[0].rpartition(":")
    return Client(socket.create_connection((host, int(port)), source_address=(source, 0)))


def expect_refusal(client: Client) -> None:
    """Told, as a client beyond a limit is."""
    assert client.recv_to_end() == FAREWELL


@versions
def test_bytes_behind_the_header_are_for_the_handler(
    handler: str, address: str, header: Header
) -> None:
    with Graced("--handler", handler, listen=address, config=PROXIES) as graced:
        if address.startswith("*"):
            graced.addresses[0] = graced.addresses[0].replace("0.0.0.0", "127.0.0.1")
        with graced.connect() as client:
            client.send(header("192.0.2.7", 50000) + b"hello")
            assert client.recv_exactly(5) == b"hello"
            client.echo(b"still there")
        graced.log.wait_for("connection from 192.0.2.7:50000$")
        graced.log.wait_for("closing connection from 192.0.2.7:50000: ")
        with graced.connect() as client:
            client.send(header("2001:db8::7", 1))
            client.echo(b"hello")
        graced.log.wait_for(r"closing connection from \[2001:db8::7\]:1: ")


@kinds
@versions
def test_handler_has_the_address_of_the_client(kind: str, header: Header) -> None:
    with Graced("--handler", kind, config=PROXIES) as graced:
        for host, peer in {
            "192.0.2.7": b"('192.0.2.7', 50000)",
            "2001:db8::7": b"('2001:db8::7', 50000, 0, 0)",
        }.items():
            with connect(graced) as client:
                client.send(header(host, 50000) + b"who?")
                assert client.recv() == peer
        # No proxy: what it claims is what it says.
        with connect(graced, "127.0.0.9") as client:
            client.send(header("192.0.2.7", 50000))
            assert client.recv().startswith(b"('127.0.0.9', ")


@versions
def test_header_in_pieces_holds_up_nobody(handler: str, header: Header) -> None:
    with (
        Graced("--handler", handler, config=PROXIES) as graced,
        connect(graced) as slow,
        connect(graced, "127.0.0.9") as other,
    ):
        slow.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = header("192.0.2.7", 50000) + b"hello"
        for number in range(len(data)):
            slow.send(data[number : number + 1])
            if number % 8 == 0:
                other.echo(b"hello")
        assert slow.recv_exactly(5) == b"hello"
        graced.log.wait_for("connection from 192.0.2.7:50000")


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"hello, this is no proxy", "no PROXY header"),
        (b"PROXY TCP4 192.0.2.7\r\n", "a PROXY header without family"),
        (b"PROXY " + b"x" * 200, "a PROXY header of more than 107 bytes"),
        (head(b"", 0x21, 0x11, 60000), "a PROXY header of more than 4096 bytes"),
        (head(b"", 0x11, 0x11), "a PROXY header of an unknown version or command"),
        (b"PROXY TCP4 192.0.2.7 ", "half a PROXY header"),
        (SIGNATURE, "half a PROXY header"),
    ],
)
def test_false_header_is_refused(sent: bytes, reason: str) -> None:
    with Graced(config=PROXIES) as graced, connect(graced) as client:
        client.send(sent)
        client.finish()
        expect_refusal(client)
        graced.log.wait_for(
            rf"^<4>refused 1 client, the last from 127.0.0.1:\d+: proxy_protocol: {reason}"
        )
        assert graced.log.count("connection from") == 0


@pytest.mark.parametrize("sent", [b"", b"PROXY TCP4"], ids=["nothing", "half"])
def test_header_has_to_come_in_time(sent: bytes) -> None:
    with Graced(config=PROXIES) as graced, connect(graced) as client:
        client.send(sent)
        expect_refusal(client)
        graced.log.wait_for("proxy_protocol: no PROXY header within 3 s")


def test_limits_and_rules_hold_for_the_client_and_not_for_the_proxy() -> None:
    config = (
        PROXIES + "[access]\nallow = '192.0.2.0/24'\ndeny = '192.0.2.66'\n"
        "[limits]\nmax_clients_per_host = 1"
    )
    with Graced(config=config) as graced, ExitStack() as stack:
        for number in range(5):
            client = stack.enter_context(connect(graced))
            client.send(v2(f"192.0.2.{number}", 1000))
            client.echo(b"hello")
        for host, reason in {
            "192.0.2.3": "max_clients_per_host = 1 reached",
            "192.0.2.66": "access.deny has 192.0.2.66",
            "198.51.100.1": "access.allow has no network of the client",
        }.items():
            with connect(graced) as client:
                client.send(v1(host, 2000))
                expect_refusal(client)
            graced.log.wait_for(f"the last from {host}:2000: {reason}")
        with connect(graced, "127.0.0.9") as client:
            expect_refusal(client)


def test_health_checks_of_the_proxy_are_served_against_all_rules() -> None:
    config = PROXIES + "[access]\nallow = '192.0.2.0/24'\n[log]\nprobes = false"
    with Graced(config=config) as graced:
        with connect(graced) as client:
            client.send(head(b"", LOCAL, UNSPEC))
            client.echo(b"hello")
        graced.log.wait_for("closing connection from 127.0.0.1:.*: closed by the client, 5 bytes")
        # HAProxy's checks end in a reset, and in version 1 name itself.
        for sent in (head(bytes(12), LOCAL, 0x11), b"PROXY UNKNOWN\r\n", b"itself", b""):
            for resets in (True, False):
                with connect(graced) as client:
                    itself = v1(*client.sock.getsockname())
                    client.send(itself if sent == b"itself" else sent)
                    if resets:
                        client.reset()
                    else:
                        client.finish()
                        assert client.recv_to_end() == b""
        assert settled(graced.pid)
        graced.signal(SIGUSR1)
        graced.log.wait_for(r"serving: .* 9 so far \(8 without a byte\), 5 bytes echoed")
        assert graced.log.count("connection from") == 2


@pytest.mark.parametrize("kind", [*KINDS.values(), "support.naming:BlockingAtOnce"])
def test_client_that_has_said_nothing_is_told_in_a_drain(kind: str) -> None:
    """The kernel counts the header as bytes of the client, which are no request."""
    with Graced("--handler", kind, "--grace", "30", config=PROXIES) as graced, ExitStack() as stack:
        clients = [stack.enter_context(connect(graced)) for _ in range(2)]
        for number, client in enumerate(clients, 1):
            client.send(v2("192.0.2.7", number))
            graced.log.wait_for("<6>connection from 192.0.2.7", number)
        clients[0].send(b"who?")
        assert clients[0].recv() == b"('192.0.2.7', 1)"
        graced.signal(SIGTERM)
        for client in clients:
            client.expect_farewell_alone()
            client.close()
        assert graced.wait() == 0
        assert graced.stopped.seconds < 15


def test_connection_without_header_does_not_hold_up_a_stop() -> None:
    with Graced("--grace", "30", config=PROXIES) as graced, ExitStack() as stack:
        silent, half = (stack.enter_context(connect(graced)) for _ in range(2))
        half.send(b"PROXY TCP4 ")
        with connect(graced) as client:
            client.send(v1("192.0.2.7", 1))
            client.echo(b"hello")
        graced.signal(SIGTERM)
        for each in (silent, half):
            expect_refusal(each)
        assert graced.wait() == 0
        assert graced.stopped.seconds < 3


def start(store: FdStore, *options: str, **more: Any) -> Graced:
    """The next process of a service, with what the store has."""
    return Graced(
        *options,
        config=PROXIES,
        env=store.environment,
        before=PASS,
        pass_fds=store.descriptors,
        **more,
    )


@kinds
@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_address_survives_a_restart(
    store: FdStore, kind: str, tmp_path: Path, *, unix: bool
) -> None:
    address = f"unix:{tmp_path}/s" if unix else "127.0.0.1:0"
    with (
        start(store, "--handler", kind, "--grace", "30", listen=address) as first,
        first.connect() as client,
        first.connect() as silent,
    ):
        peer = b"('192.0.2.7', 50000)"
        client.send(v2("192.0.2.7", 50000) + b"who?")
        assert client.recv() == peer
        silent.send(v1("2001:db8::7", 1))
        first.log.wait_for(r"connection from \[2001:db8::7\]:1")
        first.signal(SIGUSR2)
        assert first.wait() == 79
        with start(store, "--handler", kind, "--grace", "30", listen=first.addresses[0]) as second:
            client.send(b"who?")
            assert client.recv() == peer
            second.signal(SIGTERM)
            for each in (client, silent):
                each.expect_farewell_alone()
                each.close()
            assert second.wait() == 0
            assert second.stopped.seconds < 15
            second.log.wait_for("closing connection from 192.0.2.7:50000")
            second.log.wait_for(r"closing connection from \[2001:db8::7\]:1")


@pytest.mark.parametrize("kind", ["echo", *KINDS.values()], ids=["echo", *KINDS])
@versions
def test_header_may_come_in_two_processes(store: FdStore, kind: str, header: Header) -> None:
    """A restart loses no connection, however much of its header has come."""
    data = header("192.0.2.7", 50000)
    with start(store, "--handler", kind) as first, ExitStack() as stack:
        parts = {n: stack.enter_context(first.connect()) for n in (0, 1, 8, len(data) - 1)}
        for length, client in parts.items():
            client.send(data[:length])
        # All that was accepted before has been looked at by then.
        with first.connect() as last:
            last.send(data + b"x")
            assert last.recv()
        first.signal(SIGUSR2)
        assert first.wait() == 79
        with start(store, "--handler", kind, listen=first.addresses[0]) as second:
            for length, client in parts.items():
                client.send(data[length:] + b"who?")
                expected = b"who?" if kind == "echo" else b"('192.0.2.7', 50000)"
                assert client.recv() == expected
            second.log.wait_for("connection from 192.0.2.7:50000", len(parts))
            for client in parts.values():
                client.close()
            assert second.stop() == 0


def test_connections_without_header_are_bounded() -> None:
    with Graced(config=PROXIES) as graced, ExitStack() as stack:
        for _ in range(260):
            stack.enter_context(connect(graced))
        graced.log.wait_for("proxy_protocol: 256 connections have no PROXY header yet")
        with connect(graced, "127.0.0.9") as client:
            client.echo(b"hello")
        graced.log.wait_for("no PROXY header within 3 s")
        with connect(graced) as client:
            client.send(v1("192.0.2.7", 1))
            client.echo(b"hello")


def test_connection_of_a_proxy_that_is_none_any_more_is_told(store: FdStore) -> None:
    with start(store, "--handler", "echo") as first, first.connect() as client:
        client.send(b"PROXY TCP4 ")
        with first.connect() as last:
            last.send(v1("192.0.2.7", 1) + b"x")
            assert last.recv() == b"x"
        first.signal(SIGUSR2)
        assert first.wait() == 79
        with Graced(
            listen=first.addresses[0],
            env=store.environment,
            before=PASS,
            pass_fds=store.descriptors,
        ) as second:
            expect_refusal(client)
            assert second.stop() == 0


@pytest.mark.parametrize("written", ["'unix:/run/s'", "['10.0.0.1/8']", "7"])
def test_false_sources_are_one_line(written: str, tmp_path: Path) -> None:
    file = tmp_path / "graced.toml"
    file.write_text(f"[server]\nproxy_protocol = {written}\n")
    found = run_graced("--config", str(file), "--check-config")
    assert found.returncode == 78
    assert found.stderr.startswith(f"graced: {file}: server.proxy_protocol must ")
    assert found.stderr.count("\n") == 1
