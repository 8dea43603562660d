"""The limits of clients."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from graced.loop.admission import Admission


def test_clients_are_counted_now_and_so_far() -> None:
    admission = Admission(10, 0)
    for _ in range(3):
        assert admission.enter("host") == ""
    admission.leave("host")
    assert (admission.clients, admission.admitted) == (2, 3)


def test_refused_client_is_not_counted() -> None:
    admission = Admission(1, 0)
    admission.enter("a")
    assert admission.enter("b") == "max_clients = 1 reached"
    assert (admission.clients, admission.admitted) == (1, 1)
    admission.leave("a")
    assert admission.enter("b") == ""


def test_host_has_a_limit_of_its_own() -> None:
    admission = Admission(10, 2)
    for _ in range(2):
        assert admission.enter("a") == ""
    assert admission.enter("a") == "max_clients_per_host = 2 reached"
    assert admission.enter("b") == ""
    admission.leave("a")
    assert admission.enter("a") == ""


def test_limit_by_host_does_not_hold_for_unix_clients() -> None:
    admission = Admission(3, 1)
    for _ in range(3):
        assert admission.enter("unix:/socket") == ""
    assert admission.enter("unix:/socket") == "max_clients = 3 reached"


hosts = st.sampled_from(["a", "b", "c", "unix:/s"])


@given(st.integers(1, 5), st.integers(0, 3), st.lists(st.tuples(st.booleans(), hosts)))
def test_any_order_of_enter_and_leave(most: int, share: int, moves: list[tuple[bool, str]]) -> None:
    admission = Admission(most, share)
    inside: Counter[str] = Counter()
    admitted = 0
    for comes, host in moves:
        if comes:
            full = inside.total() == most
            has_share = share and not host.startswith("unix:") and inside[host] == share
            assert bool(admission.enter(host)) == bool(full or has_share)
            if not full and not has_share:
                inside[host] += 1
                admitted += 1
        elif inside[host]:
            inside[host] -= 1
            admission.leave(host)
        assert (admission.clients, admission.admitted) == (inside.total(), admitted)


def test_adopted_client_is_counted_once() -> None:
    admission = Admission(10, 0)
    admission.enter("host")
    admission.leave("host")
    assert admission.enter("host", adopted=True) == ""
    assert (admission.clients, admission.admitted) == (1, 1)
