"""Any bytes at a TLS listener, before, in and after a handshake: others are served."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from robustness.scale import scaled
from support import Client, Graced
from support.tls import CONFIG, LISTEN, TlsClient, client_context, place

many = settings(max_examples=scaled(100, 100_000), deadline=None)
PARTS = [b"\x16\x03\x01", b"\x16\x03\x03\x00\x04", b"\x17\x03\x03\x00\x13", b"\x15\x03\x03\x00\x02"]
records = st.lists(st.sampled_from(PARTS) | st.binary(max_size=60), max_size=8).map(b"".join)


@pytest.fixture(scope="module")
def graced() -> Iterator[Graced]:
    with Graced(config=f"{CONFIG}[log]\nconnections = false\n", listen=LISTEN) as found:
        yield found


@pytest.fixture(scope="module")
def hello() -> bytes:
    """What a client says first."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context().wrap_bio(to_client, to_server, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return to_server.read()


def expect_service(graced: Graced) -> None:
    with TlsClient(graced.addresses[0]) as client:
        client.echo(b"hello")


def end(client: Client) -> None:
    """Finish, and read what there is: the server closes or resets, and that is all it says."""
    try:
        client.finish()
    except OSError:
        # It has been reset.
        return
    with suppress(ConnectionError):
        client.recv_to_end()


@many
@example(b"")
@given(records)
def test_bytes_in_place_of_a_handshake(graced: Graced, data: bytes) -> None:
    with Client(socket.create_connection(place(graced.addresses[0]))) as client:
        client.send(data)
        end(client)
    expect_service(graced)


@many
@given(st.data(), st.binary(min_size=1, max_size=4))
def test_damaged_hello(graced: Graced, hello: bytes, data: st.DataObject, damage: bytes) -> None:
    where = data.draw(st.integers(0, len(hello) - 1))
    damaged = hello[:where] + damage + hello[where + len(damage) :]
    with Client(socket.create_connection(place(graced.addresses[0]))) as client:
        client.send(damaged)
        end(client)
    expect_service(graced)


@many
@given(records)
def test_bytes_behind_a_handshake(graced: Graced, data: bytes) -> None:
    with TlsClient(graced.addresses[0]) as client:
        client.echo(b"hello")
        with Client(socket.socket(fileno=os.dup(client.sock.fileno()))) as under:
            under.send(data)
            end(under)
    expect_service(graced)


def test_clients_that_reset_at_once(graced: Graced) -> None:
    for _ in range(scaled(50, 5000)):
        Client(socket.create_connection(place(graced.addresses[0]))).reset()
    expect_service(graced)
