"""Urgent data is in line, as RFC 6093 asks for: every byte comes back."""

from __future__ import annotations

import socket
from signal import SIGTERM, SIGUSR2
from socket import MSG_OOB, SHUT_WR
from typing import Any

import pytest

from support import PASS, Client, FdStore, Graced
from support.handover import handed_over


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0"])
@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
def test_urgent_bytes_come_back(handler: str, listen: str) -> None:
    with Graced("--handler", handler, listen=listen) as graced, graced.served() as client:
        for _ in range(3):
            client.send(b"abc")
            client.sock.send(b"XYZ", MSG_OOB)
            client.send(b"def")
            assert client.recv_exactly(9) == b"abcXYZdef"


def test_urgent_byte_alone_comes_back() -> None:
    with Graced() as graced, graced.served() as client:
        client.sock.send(b"!", MSG_OOB)
        assert client.recv_exactly(1) == b"!"


def test_urgent_bytes_come_back_after_handover() -> None:
    store = FdStore()
    with (
        store,
        handed_over(store) as (_, client),
        Graced(listen=[], env=store.environment, before=PASS, pass_fds=store.descriptors) as graced,
    ):
        client.sock.send(b"XYZ", MSG_OOB)
        assert client.recv_exactly(3) == b"XYZ"
        client.close()
        graced.signal(SIGUSR2)
        assert graced.wait() == 79


def test_urgent_bytes_reach_a_handler_that_reads_lines() -> None:
    with (
        Graced("--handler", "support.handlers:PatientHandler") as graced,
        graced.served() as client,
    ):
        client.send(b"abc")
        client.sock.send(b"x", MSG_OOB)
        client.send(b"def\n")
        assert client.recv_exactly(8) == b"ABCXDEF\n"


BLOCKING = ["support.handlers:TellingHandler", "support.handlers:CallingHandler"]
CALLBACKS = [
    "support.streams:TellingEcho",
    "support.streams:BufferedEcho",
    "support.asynchronous:Polite",
]


@pytest.mark.parametrize("handler", BLOCKING + CALLBACKS)
def test_urgent_bytes_come_back_from_each_kind_of_handler(handler: str) -> None:
    """One that calls recv, one that calls recv_into and recvmsg, and stream handlers."""
    with Graced("--handler", handler) as graced, graced.served() as client:
        for _ in range(3):
            client.send(b"abc")
            client.sock.send(b"XYZ", MSG_OOB)
            client.sock.send(b"!", MSG_OOB)
            client.send(b"def")
            assert client.recv_exactly(10) == b"abcXYZ!def"
        client.finish()
        assert client.recv_to_end() == b""


def test_urgent_byte_does_not_hold_up_a_handler_in_select() -> None:
    """SO_OOBINLINE makes it readable, not exceptional alone."""
    with Graced("--handler", "support.foreign:Selecting") as graced, graced.served() as client:
        client.sock.send(b"x", MSG_OOB)
        assert client.recv_exactly(1) == b"X"


@pytest.mark.parametrize(
    "handler",
    [
        "echo",
        "echo-threaded",
        "support.streams:MovableEcho",
        "support.asynchronous:MovableEcho",
    ],
)
def test_urgent_byte_that_waits_at_a_restart_comes_back(handler: str) -> None:
    """It is sent while no process serves, with bytes before and after it."""
    store = FdStore()
    options = ("--handler", handler)
    with (
        store,
        handed_over(store, *options) as (address, client),
    ):
        client.send(b"abc")
        client.sock.send(b"XYZ", MSG_OOB)
        client.send(b"def")
        more: dict[str, Any] = {"env": store.environment, "before": PASS}
        with Graced(*options, listen=address, pass_fds=store.descriptors, **more) as graced:
            assert client.recv_exactly(9) == b"abcXYZdef"
            graced.signal(SIGTERM)
            client.expect_farewell_alone()


def test_urgent_bytes_come_back_over_a_listener_that_was_passed() -> None:
    """A client that has sent them before the service was started."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Client.connect(f"127.0.0.1:{listener.getsockname()[1]}") as early,
    ):
        early.send(b"abc")
        early.sock.send(b"XYZ", MSG_OOB)
        fd = listener.fileno()
        env = {"LISTEN_FDS": "1", "PASSED": str(fd)}
        with Graced(listen=[], env=env, before=PASS, pass_fds=[fd]) as graced:
            assert early.recv_exactly(6) == b"abcXYZ"
            with graced.served() as client:
                client.sock.send(b"XYZ", MSG_OOB)
                assert client.recv_exactly(3) == b"XYZ"


@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
def test_urgent_byte_before_the_end_comes_back(handler: str) -> None:
    with Graced("--handler", handler) as graced, graced.served() as client:
        client.send(b"abc")
        client.sock.send(b"!", MSG_OOB)
        client.sock.shutdown(SHUT_WR)
        assert client.recv_to_end() == b"abc!"


@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
def test_urgent_bytes_in_the_drain_come_back_after_the_farewell(handler: str) -> None:
    with Graced("--handler", handler) as graced, graced.served() as client:
        client.echo(b"hello")
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        client.sock.send(b"!!", MSG_OOB)
        assert client.recv_exactly(2) == b"!!"
        client.close()
        assert graced.wait() == 0
