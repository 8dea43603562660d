"""Urgent data is in line, as RFC 6093 asks for: every byte comes back."""

from __future__ import annotations

from signal import SIGTERM, SIGUSR2
from socket import MSG_OOB, SHUT_WR

import pytest

from support import PASS, FdStore, Graced
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
