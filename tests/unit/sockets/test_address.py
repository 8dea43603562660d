"""Addresses as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.sockets.address import Address, format_address, plain_host


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:9999", Address("localhost", 9999)),
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("[::1]:65535", Address("::1", 65535)),
        ("[fe80::1%eth0]:7", Address("fe80::1%eth0", 7)),
        ("*:7", Address("*", 7)),
        ("unix:/run/graced/socket", Address("", 0, "/run/graced/socket")),
        ("unix:/odd:7", Address("", 0, "/odd:7")),
    ],
)
def test_address_is_parsed_and_written(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("", "HOST:PORT"),
        ("localhost", "HOST:PORT"),
        (":7", "HOST:PORT"),
        ("::1:7", "in brackets"),
        ("::1", "in brackets"),
        ("localhost:", "port from 0 to 65535"),
        ("localhost:-1", "port from 0 to 65535"),
        ("localhost:+1", "port from 0 to 65535"),
        ("localhost:65536", "port from 0 to 65535"),
        ("localhost:\u0667", "port from 0 to 65535"),
        ("localhost:0x7", "port from 0 to 65535"),
        ("localhost:7 ", "port from 0 to 65535"),
        ("localhost:" + "9" * 10_000, "port from 0 to 65535"),
        ("unix:relative", "absolute path"),
        ("unix:", "absolute path"),
        ("unix:/" + "x" * 107, "at most 107 bytes"),
        ("unix:/" + "ä" * 54, "at most 107 bytes"),
        ("local\nhost:7", "control characters"),
        ("unix:/\0", "control characters"),
    ],
)
def test_bad_address_is_refused_with_what_is_allowed(text: str, allowed: str) -> None:
    with pytest.raises(ValueError, match=allowed):
        Address.parse(text)


@given(st.text())
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        address = Address.parse(text)
    except ValueError:
        return
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("127.0.0.1", 7), "127.0.0.1:7"),
        (("::1", 7, 0, 0), "[::1]:7"),
        ("/path", "unix:/path"),
        (b"\0abstract", "unix:\0abstract"),
        ("", "unix:"),
    ],
)
def test_socket_address_is_written_as_in_the_log(address: object, text: str) -> None:
    assert format_address(address) == text


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:0", "::ffff:0"),
        ("fe80::1%eth0.7", "fe80::1%eth0.7"),
        ("unix:/run/a.socket", "unix:/run/a.socket"),
    ],
)
def test_host_has_one_notation(host: str, plain: str) -> None:
    assert plain_host(host) == plain
