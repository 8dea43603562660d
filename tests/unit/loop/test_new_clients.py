"""The rate of new clients, in a time that the test makes pass."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.loop.admission import Admission
from graced.loop.new_clients import MAX_HOSTS, NewClients, network_of


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_full_bucket_has_a_second_of_the_rate() -> None:
    clock = Clock()
    limit = NewClients(3, 0, clock)
    for _ in range(2):
        assert [limit.take("a") for _ in range(4)] == ["", "", "", "max_new_per_second = 3 reached"]
        clock.now += 100
    clock.now -= 99.6
    assert [bool(limit.take("a")) for _ in range(2)] == [False, True]


def test_host_has_a_bucket_of_its_own() -> None:
    limit = NewClients(0, 1, Clock())
    assert limit.take("a") == limit.take("b") == ""
    assert limit.take("a") == "max_new_per_second_per_host = 1 reached"


def test_refused_host_takes_no_token_of_all() -> None:
    limit = NewClients(3, 1, Clock())
    assert [bool(limit.take("a")) for _ in range(10)] == [False, *[True] * 9]
    assert limit.take("b") == limit.take("c") == ""
    assert limit.take("d") == "max_new_per_second = 3 reached"


def test_client_that_all_have_no_token_for_takes_none_of_its_host() -> None:
    clock = Clock()
    limit = NewClients(1, 2, clock)
    assert [bool(limit.take("a")) for _ in range(9)] == [False, *[True] * 8]
    clock.now += 1
    assert limit.take("a") == ""


def test_unix_clients_are_no_host() -> None:
    limit = NewClients(0, 1, Clock())
    assert [limit.take("unix:/s") for _ in range(9)] == [""] * 9
    assert not limit.hosts


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::"),
        ("fe80::1%eth0", "fe80::"),
        ("::1", "::"),
    ],
)
def test_host_of_ipv6_is_its_network(host: str, network: str) -> None:
    assert network_of(host) == network


def test_network_of_ipv6_has_one_bucket() -> None:
    limit = NewClients(0, 1, Clock())
    assert limit.take("2001:db8::1") == limit.take("2001:db8:0:1::1") == ""
    assert limit.take("2001:db8::2") == "max_new_per_second_per_host = 1 reached"


def test_hosts_that_are_remembered_are_bounded() -> None:
    clock = Clock()
    limit = NewClients(0, 1, clock)
    for number in range(3 * MAX_HOSTS):
        assert limit.take(f"host {number}") == ""
        assert limit.hosts <= MAX_HOSTS
    assert limit.take(f"host {3 * MAX_HOSTS - 1}")


def test_full_buckets_are_forgotten() -> None:
    clock = Clock()
    limit = NewClients(0, 5, clock)
    for number in range(100):
        limit.take(f"host {number}")
    for number in range(100):
        clock.now += 0.1
        assert limit.take(f"other {number % 3}") == ""
    assert limit.hosts <= 3


@pytest.mark.parametrize("rate", [1, 2, 3, 7, 10, 100, 1_000_000])
def test_whole_bucket_can_be_taken_at_once(rate: int) -> None:
    limit = NewClients(rate, rate, Clock())
    burst = min(rate, 10_000)
    assert not any(limit.take("a") for _ in range(burst))
    assert bool(limit.take("a")) == (burst == rate)


moves = st.tuples(st.sampled_from("ab"), st.sampled_from([0, 0, 0.125, 0.25, 0.5, 1, 5]))


@given(st.sampled_from([0, 1, 2, 4, 8]), st.sampled_from([0, 1, 2, 4]), st.lists(moves))
def test_bucket_is_that_of_a_naive_model(
    rate: int, per_host: int, steps: list[tuple[str, float]]
) -> None:
    """Tokens, counted; all times are binary fractions, so that nothing is rounded."""
    clock = Clock()
    limit = NewClients(rate, per_host, clock)
    tokens = float(rate)
    of_host: defaultdict[str, float] = defaultdict(lambda: float(per_host))
    for host, pause in steps:
        clock.now += pause
        tokens = min(rate, tokens + pause * rate)
        for each in "ab":
            of_host[each] = min(per_host, of_host[each] + pause * per_host)
        refused = bool((rate and tokens < 1) or (per_host and of_host[host] < 1))
        assert bool(limit.take(host)) == refused
        if not refused:
            tokens -= 1
            of_host[host] -= 1


def test_refused_client_is_not_counted() -> None:
    admission = Admission(10, 5, NewClients(1, 0, Clock()))
    assert admission.enter("a") == ""
    assert admission.enter("a") == "max_new_per_second = 1 reached"
    assert (admission.clients, admission.admitted) == (1, 1)
    admission.leave("a")
    assert admission._per_host == {}


def test_client_that_another_limit_refuses_takes_no_token() -> None:
    clock = Clock()
    admission = Admission(1, 0, NewClients(2, 0, clock))
    assert admission.enter("a") == ""
    assert admission.enter("b") == "max_clients = 1 reached"
    admission.leave("a")
    assert admission.enter("b") == ""


def test_inherited_client_is_not_new() -> None:
    admission = Admission(10, 0, NewClients(1, 0, Clock()))
    assert [admission.enter("a", adopted=True) for _ in range(5)] == [""] * 5
    assert admission.enter("a") == ""
