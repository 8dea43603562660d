"""Addresses as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.sockets.address import Address


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
def test_what_is_an_address(text: str, address: Address) -> None:
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
def test_what_is_none_and_what_would_be(text: str, allowed: str) -> None:
    with pytest.raises(ValueError, match=allowed):
        Address.parse(text)


@given(st.text())
def test_any_text_is_an_address_that_is_written_so_or_refused(text: str) -> None:
    try:
        address = Address.parse(text)
    except ValueError:
        return
    assert Address.parse(str(address)) == address
