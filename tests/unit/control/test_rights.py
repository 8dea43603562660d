"""Who may look, and who may act."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from graced.control import rights
from graced.control.rights import rights_of

NOBODY = 65534


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    """A connection whose other end is of this process."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


def as_service(monkeypatch: pytest.MonkeyPatch, *, user: int, group: int) -> None:
    """The service runs as somebody else; root is a user without rights."""
    monkeypatch.setattr(rights, "ROOT", -1)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(os, "getegid", lambda: group)


def test_user_of_the_service_may_act(peer: socket.socket) -> None:
    found = rights_of(peer)
    assert (found.user, found.may_look, found.may_act) == (os.getuid(), True, True)


def test_root_may_act(peer: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    as_service(monkeypatch, user=NOBODY, group=NOBODY)
    monkeypatch.setattr(rights, "ROOT", os.getuid())
    assert rights_of(peer).may_act


def test_group_of_the_service_may_look(
    peer: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for group in {os.getgid(), *os.getgroups()}:
        as_service(monkeypatch, user=NOBODY, group=group)
        found = rights_of(peer)
        assert (found.may_look, found.may_act) == (True, False)


def test_groups_that_are_too_many_give_no_right(
    peer: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_service(monkeypatch, user=NOBODY, group=NOBODY)
    # As the kernel answers where they do not fit.
    monkeypatch.setattr(rights, "_MOST_GROUPS", 1 << 20)
    assert not rights_of(peer).may_look


def test_others_may_nothing(peer: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    as_service(monkeypatch, user=NOBODY, group=NOBODY)
    found = rights_of(peer)
    assert (found.may_look, found.may_act) == (False, False)
