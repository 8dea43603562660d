"""Networks, and the most specific network that a host is in."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.sockets.address import plain_host
from graced.sockets.networks import Network, NetworkTable


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7/32", "192.0.2.7"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8:0::/32", "2001:db8::/32"),
        ("::1", "::1"),
        ("::/0", "::/0"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::fffe:0:0/95", "::fffe:0:0/95"),
        ("fe80::/10", "fe80::/10"),
    ],
)
def test_network_has_one_notation(text: str, plain: str) -> None:
    assert str(Network.parse(text)) == plain
    assert Network.parse(plain) == Network.parse(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must be networks"),
        ("/24", "must be networks"),
        ("localhost", "must be networks"),
        ("10.1", "must be networks"),
        ("10.0.0.01", "must be networks"),
        ("[::1]", "must be networks"),
        ("fe80::1%eth0", "must be networks"),
        ("unix:/run/s", "must be networks"),
        (" 10.0.0.1", "must be networks"),
        ("10.0.0.1\0", "must be networks"),
        ("\udcff", "must be networks"),
        ("10.0.0.0/", "must have a number of bits after the slash"),
        ("10.0.0.0/255.0.0.0", "must have a number of bits after the slash"),
        ("10.0.0.0/-1", "must have a number of bits after the slash"),
        ("10.0.0.0/\N{SUPERSCRIPT TWO}", "must have a number of bits after the slash"),
        ("10.0.0.0/33", "must have 0 to 32 bits after the slash of 10.0.0.0/33"),
        ("::/129", "must have 0 to 128 bits"),
        ("10.0.0.1/8", r"must begin where the network begins \(10.0.0.1/8 is in 10.0.0.0/8\)"),
        ("2001:db8::1/64", r"\(2001:db8::1/64 is in 2001:db8::/64\)"),
        ("::ffff:192.0.2.0/90", "must begin where the network begins"),
        ("::ffff:192.0.2.1/120", r"\(::ffff:192.0.2.1/120 is in 192.0.2.0/24\)"),
    ],
)
def test_what_is_no_network_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Network.parse(text)


@given(st.text(max_size=30) | st.from_regex(r"\A[0-9a-f:.]{1,20}(/[0-9]{1,3})?\Z"))
def test_networks_are_those_of_the_standard_library(text: str) -> None:
    """But for an IPv4 network in the notation of IPv6, a netmask, and an interface."""
    try:
        known: Any = ipaddress.ip_network(text)
    except ValueError:
        with pytest.raises(ValueError, match=r"^must "):
            Network.parse(text)
        return
    try:
        found = Network.parse(text)
    except ValueError:
        # A netmask, a name of an interface, or digits that only Python's int() takes.
        assert "%" in text or not text.partition("/")[2].isascii() or "." in text.partition("/")[2]
        return
    if found.bits == known.max_prefixlen:
        assert str(found) == str(known).removesuffix(f"/{found.bits}")
    else:
        assert known.network_address.ipv4_mapped is not None


def networks(versions: Any = (4, 6)) -> st.SearchStrategy[Any]:
    """Networks that often contain each other: few bits differ."""

    def build(version: int, number: int, length: int) -> Any:
        bits = 32 if version == 4 else 128
        length = min(length, bits)
        top = (number << bits - 8) >> bits - length << bits - length
        kind = ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network
        return kind((top, length))

    lengths = st.sampled_from([0, 1, 2, 3, 4, 6, 7, 8, 24, 32, 64, 128])
    return st.builds(build, st.sampled_from(versions), st.integers(0, 255), lengths)


@given(
    st.dictionaries(networks(), st.sampled_from(["", "a", "b"]), max_size=12),
    st.lists(networks(), min_size=1, max_size=8),
    st.integers(0, 2**128 - 1),
)
def test_most_specific_network_is_that_of_a_naive_model(
    rules: dict[Any, str], places: list[Any], offset: int
) -> None:
    table = NetworkTable([(Network.parse(str(each)), text) for each, text in rules.items()])
    for place in places:
        host = place[offset % place.num_addresses]
        of = [network for network in rules if host in network]
        expected = rules[max(of, key=lambda network: network.prefixlen)] if of else None
        assert table.find(str(host)) == expected
        if host.version == 4:
            assert table.find(plain_host(f"::ffff:{host}")) == expected


def test_interface_of_a_link_local_host_does_not_matter() -> None:
    table = NetworkTable([(Network.parse("fe80::/10"), "link")])
    assert table.find("fe80::1%eth0") == table.find("fe80::1") == "link"


def test_no_host_is_in_no_network() -> None:
    table = NetworkTable([(Network.parse("0.0.0.0/0"), "all"), (Network.parse("::/0"), "all")])
    assert table.find("unix:/run/s") is None
    assert table.find("") is None


def test_look_takes_a_step_for_each_length_of_prefix() -> None:
    """A deny list of ten thousand addresses costs what one address costs."""
    many = [(Network.parse(f"10.{n >> 8}.{n & 255}.1"), "") for n in range(10_000)]
    table = NetworkTable([*many, (Network.parse("10.0.0.0/8"), "net")])
    assert [len(levels) for levels in table._levels.values()] == [2, 0]
