"""Any bytes from a proxy, in any pieces: a client is served, or its connection is refused."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from graced.sockets.proxy_header import ProxyHeaderError, parse
from robustness.scale import scaled
from support import FAREWELL, Client, Graced
from support.proxy import LOCAL, PROXY, SIGNATURE, UNIX, UNSPEC, head, v1, v2

many = settings(max_examples=scaled(300, 100_000), deadline=None)
HEADERS = [
    v1("192.0.2.7", 50000),
    v1("2001:db8::7", 1),
    v2("192.0.2.7", 50000),
    v2("2001:db8::7", 1, b"\x04\0\x03abc"),
    head(b"", LOCAL, UNSPEC),
    head(bytes(216), PROXY, UNIX),
    b"PROXY UNKNOWN\r\n",
]


@pytest.fixture(scope="module")
def graced() -> Iterator[Graced]:
    config = "[server]\nproxy_protocol = '127.0.0.1'\n[log]\nconnections = false"
    with Graced(config=config) as found:
        yield found


def connect(graced: Graced) -> Client:
    client = graced.connect()
    client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def send_pieces(client: Client, data: bytes, cuts: list[int]) -> None:
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    for begin, end in zip([0, *ends], ends, strict=False):
        client.send(data[begin:end])


cuts = st.lists(st.integers(0, 260), max_size=6)


@many
@given(st.sampled_from(HEADERS), st.binary(min_size=1, max_size=300), cuts)
def test_bytes_behind_a_header_are_echoed(
    graced: Graced, header: bytes, payload: bytes, cuts: list[int]
) -> None:
    with connect(graced) as client:
        send_pieces(client, header + payload, cuts)
        assert client.recv_exactly(len(payload)) == payload


damaged = st.builds(
    lambda header, at, cut, put: (
        header[: at % len(header)] + put + header[at % len(header) + cut :]
    ),
    st.sampled_from(HEADERS),
    st.integers(0, 300),
    st.integers(0, 20),
    st.binary(max_size=8),
)
noise = st.builds(bytes.__add__, st.sampled_from([b"", b"PROXY ", SIGNATURE]), st.binary())


@many
@given(damaged | noise, cuts)
@example(b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r", [])
@example(SIGNATURE + b"\x21\x11\xff\xff", [12, 13, 14])
def test_any_bytes_are_served_or_refused(graced: Graced, data: bytes, cuts: list[int]) -> None:
    expected: Any = None
    try:
        found = parse(data) if data else None
        expected = data[found.size :] if found else b"" if not data else FAREWELL
    except ProxyHeaderError:
        expected = FAREWELL
    with connect(graced) as client:
        try:
            send_pieces(client, data, cuts)
            client.finish()
        except OSError:
            # Refused before the last piece.
            assert expected == FAREWELL
        try:
            assert client.recv_to_end() == expected
        except ConnectionResetError:
            assert expected == FAREWELL
