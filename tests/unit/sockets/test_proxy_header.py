"""The header of the PROXY protocol: read, waited for, or refused."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from graced.sockets.proxy_header import LONGEST_HEADER, ProxyHeader, ProxyHeaderError, parse
from support.proxy import LOCAL, PROXY, SIGNATURE, TCP4, TCP6, UDP4, UNIX, UNSPEC, head, v1, v2

V1 = v1("192.0.2.7", 50000)
V2 = v2("2001:db8::7", 50000, b"\x04\x00\x03abc")


@pytest.mark.parametrize(
    ("data", "client"),
    [
        (V1, ("192.0.2.7", 50000)),
        (v1("2001:DB8:0::7", 1), ("2001:db8::7", 1)),
        (v1("::ffff:192.0.2.7", 0), ("192.0.2.7", 0)),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN anything goes here \xff"[:-1] + b"\r\n", None),
        (v2("192.0.2.7", 65535), ("192.0.2.7", 65535)),
        (V2, ("2001:db8::7", 50000)),
        (v2("::ffff:192.0.2.7", 1), ("192.0.2.7", 1)),
        (head(bytes(216), PROXY, UNIX), None),
        (head(b"", PROXY, UNSPEC), None),
        (head(b"anything", PROXY, UNSPEC), None),
    ],
)
def test_header_names_the_client(data: bytes, client: Any) -> None:
    expected = ProxyHeader(size=len(data), client=client)
    assert parse(data) == parse(data + b"and more") == expected


@pytest.mark.parametrize("kind", [UNSPEC, TCP4, 0xFF])
def test_local_header_names_nobody(kind: int) -> None:
    data = head(b"whatever", LOCAL, kind)
    assert parse(data) == ProxyHeader(size=len(data), client=None)


@pytest.mark.parametrize("data", [V1, V2, b"PROXY UNKNOWN\r\n", head(b"", LOCAL, UNSPEC)])
def test_beginning_of_a_header_is_waited_for(data: bytes) -> None:
    for length in range(1, len(data)):
        assert parse(data[:length]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"proxy TCP4 192.0.2.7 127.0.0.1 1 2\r\n",
        b"PROXYTCP4",
        b"PROXY \r\n",
        b"PROXY TCP4\r\n",
        b"PROXY TCP5 192.0.2.7 127.0.0.1 1 2\r\n",
        b"PROXY UNKNOWNX\r\n",
        b"PROXY TCP4 192.0.2.7 127.0.0.1 1\r\n",
        b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2 3\r\n",
        b"PROXY TCP4  192.0.2.7 127.0.0.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2 \r\n",
        b"PROXY TCP4 192.0.2.7\t127.0.0.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.300 127.0.0.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 nowhere 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 192.0.2.7 127.0.0.1 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 127.0.0.1 65536 2\r\n",
        b"PROXY TCP4 192.0.2.7 127.0.0.1 -1 2\r\n",
        b"PROXY TCP4 192.0.2.7 127.0.0.1 01 2\r\n",
        b"PROXY TCP4 192.0.2.7 127.0.0.1 1 0x2\r\n",
        b"PROXY TCP4 192.0.2.7\0 127.0.0.1 1 2\r\n",
        b"PROXY TCP4 \xd9\xa1.0.0.1 127.0.0.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\n" + bytes(107),
        b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
        SIGNATURE[:-1] + b"!",
        head(b"", 0x11, TCP4),
        head(b"", 0x22, TCP4),
        head(bytes(11), PROXY, TCP4),
        head(bytes(35), PROXY, TCP6),
        head(bytes(215), PROXY, UNIX),
        head(bytes(216), PROXY, UDP4),
        head(bytes(216), PROXY, 0x13),
        head(bytes(216), PROXY, 0x41),
        head(bytes(216), PROXY, 0x10),
        head(b"", PROXY, TCP4, LONGEST_HEADER - 15),
        head(b"", LOCAL, UNSPEC, 65535),
    ],
)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(ProxyHeaderError):
        parse(data)


def test_longest_headers_are_read() -> None:
    longest = b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n"
    assert parse(longest) == ProxyHeader(size=107, client=None)
    found = parse(v2("192.0.2.7", 1, bytes(LONGEST_HEADER - 28)))
    assert found
    assert found.size == LONGEST_HEADER


addresses = st.ip_addresses().map(str)
ports = st.integers(0, 65535)


@given(addresses, ports, st.sampled_from([v1, v2]), st.binary(max_size=50))
def test_any_address_is_read(host: str, port: int, write: Any, rest: bytes) -> None:
    header = write(host, port)
    found = parse(header + rest)
    assert found
    assert found.size == len(header)
    plain: Any = ipaddress.ip_address(host)
    assert found.client == (str(getattr(plain, "ipv4_mapped", None) or plain), port)


mutations = st.tuples(
    st.sampled_from([V1, V2, head(bytes(30), LOCAL, UNSPEC), head(bytes(216), PROXY, UNIX)]),
    st.integers(0, 300),
    st.integers(0, 4),
    st.binary(max_size=6),
)


@example((V2, 14, 2, b"\xff\xff"))
@given(mutations)
def test_damaged_header_is_read_awaited_or_refused(damage: tuple[bytes, int, int, bytes]) -> None:
    """The verdict about a part is that about the whole, or "wait"."""
    header, at, cut, put = damage
    data = header[:at] + put + header[at + cut :]
    verdicts = [_verdict(data[:length]) for length in range(1, len(data) + 1)]
    firm = [verdict for verdict in verdicts if verdict is not None]
    assert len(set(map(str, firm))) <= 1
    assert None not in verdicts[len(verdicts) - len(firm) :]


@given(st.binary(min_size=1, max_size=200), st.sampled_from([b"", b"PROXY ", SIGNATURE]))
def test_noise_is_read_awaited_or_refused(noise: bytes, beginning: bytes) -> None:
    found = _verdict(beginning + noise)
    if isinstance(found, ProxyHeader):
        assert 0 < found.size <= len(beginning + noise)


def _verdict(data: bytes) -> Any:
    try:
        return parse(data)
    except ProxyHeaderError as error:
        return str(error)
