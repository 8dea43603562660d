"""Addresses as people write them."""

from __future__ import annotations

import pytest
from hypothesis import example, given

from graced.sockets.address import Address, format_address, plain_host
from support.text import texts


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:9999", Address("localhost", 9999)),
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("[::1]:65535", Address("::1", 65535)),
        ("[fe80::1%eth0]:7", Address("fe80::1%eth0", 7)),
        ("*:7", Address("*", 7)),
        ("tls:*:7", Address("*", 7, tls=True)),
        ("tls:[::1]:7", Address("::1", 7, tls=True)),
        ("tls:7", Address("tls", 7)),
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
        ("tls:unix:/run/graced/socket", "no tls: before unix:"),
        ("tls:localhost:", "port from 0 to 65535"),
        ("unix:/" + "x" * 107, "at most 107 bytes"),
        ("unix:/" + "ä" * 54, "at most 107 bytes"),
        ("local\nhost:7", "control characters"),
        ("unix:/\0", "control characters"),
    ],
)
def test_bad_address_is_refused_with_what_is_allowed(text: str, allowed: str) -> None:
    with pytest.raises(ValueError, match=allowed):
        Address.parse(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("unix:/d//s", "unix:/d/s"),
        ("unix://d/s", "unix:/d/s"),
        ("unix:/d/./s", "unix:/d/s"),
        ("unix:/./s", "unix:/s"),
        ("unix:/d/../s", "unix:/d/../s"),
    ],
)
def test_path_has_one_name(text: str, name: str) -> None:
    """Two points stay: the directory before them may be a symbolic link."""
    assert str(Address.parse(text)) == name


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("224.0.0.1:9", "224.0.0.1 is that of a multicast group"),
        ("239.255.255.255:9", "multicast"),
        ("[ff02::1]:9", "multicast"),
        ("[ff02::1%lo]:9", "multicast"),
        ("255.255.255.255:9", "255.255.255.255 is the broadcast address"),
        ("0.1.2.3:9", "0.1.2.3 is one of network 0"),
        ("1:9", "1 is one of network 0"),
        ("[::ffff:127.0.0.1]:9", "notation of IPv6: listen on 127.0.0.1"),
        ("[::ffff:7f00:1]:9", "notation of IPv6: listen on 127.0.0.1"),
        ("[fe80::5]:9", r"the interface of a link-local address, as in \[fe80::5%eth0\]:9"),
        ("[febf::5]:9", "the interface of a link-local address"),
        ("unix:/run/", "a socket after unix:, not a directory"),
        ("unix:/run/.", "a socket after unix:, not a directory"),
        ("unix:/run/..", "a socket after unix:, not a directory"),
        ("unix:/", "a socket after unix:, not a directory"),
    ],
)
def test_address_that_nobody_can_reach_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Address.parse(text).check_is_for_listening()


@pytest.mark.parametrize(
    "text",
    [
        *("0.0.0.0:9", "0:9", "127.1:9", "[::]:9", "*:9", "localhost:9", "240.0.0.1:9"),
        *("[fe80::5%eth0]:9", "[fec0::5]:9", "[::1]:9", "223.255.255.255:9", "unix:/run/..s"),
        *("224.example:9", "multicast:9", "fe80:9"),
    ],
)
def test_address_that_may_be_reached_is_not_refused(text: str) -> None:
    Address.parse(text).check_is_for_listening()


@given(texts())
@example("unix:/a\0b")
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
        (("::ffff:192.0.2.7", 7, 0, 0), "192.0.2.7:7"),
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


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("::ffff:192.0.2.7", 7, 0, 0), "192.0.2.7:7"),
        (("::ffff:c000:207", 7, 0, 0), "[::ffff:c000:207]:7"),
        (("fe80::1%eth0", 7, 0, 2), "[fe80::1%eth0]:7"),
        (("64:ff9b::192.0.2.7", 7, 0, 0), "[64:ff9b::192.0.2.7]:7"),
        (b"\0abstract", "unix:\0abstract"),
        ("", "unix:"),
    ],
)
def test_address_has_one_notation(address: object, text: str) -> None:
    assert format_address(address) == text
