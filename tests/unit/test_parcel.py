"""Many descriptors as one."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator

import pytest

from graced.parcel import MOST, Parcel, unpack


@pytest.fixture
def parcel() -> Iterator[Parcel]:
    parcel = Parcel()
    yield parcel
    parcel.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def take_out(parcel: Parcel) -> list[list[int]]:
    """The inodes of what is in it; the copies are closed again."""
    found = []
    for descriptors in unpack(parcel.receiver):
        found.append([os.fstat(fd).st_ino for fd in descriptors])
        for fd in descriptors:
            assert not os.get_inheritable(fd)
            os.close(fd)
    return found


def test_it_comes_out_as_it_was_put_in(parcel: Parcel, pipe: tuple[int, int]) -> None:
    one, two = (os.fstat(fd).st_ino for fd in (pipe[0], 0))
    assert parcel.put([pipe[0]])
    assert parcel.put([pipe[0], 0, pipe[0]])
    assert parcel.put([pipe[0]] * MOST)
    for _ in range(3):
        # It stays in there: whoever takes it up may not live to use it.
        assert take_out(parcel) == [[one], [one, two, one], [one] * MOST]


def test_one_that_is_empty(parcel: Parcel) -> None:
    assert take_out(parcel) == []


def test_what_is_in_it_is_there_when_everybody_has_closed_his_own(parcel: Parcel) -> None:
    ours, theirs = socket.socketpair()
    assert parcel.put([ours.fileno()])
    ours.close()
    with parcel.receiver.dup() as receiver:
        parcel.close()
        ((fd,),) = unpack(receiver)
    with socket.socket(fileno=fd) as again, theirs:
        again.send(b"still here")
        assert theirs.recv(64) == b"still here"


def test_with_the_last_receiver_it_goes(parcel: Parcel) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        assert parcel.put([ours.fileno()])
        ours.close()
        parcel.close()
        assert theirs.recv(1) == b""


def test_one_that_is_full_says_so_and_has_the_rest(parcel: Parcel) -> None:
    number = 0
    while parcel.put([0]):
        number += 1
        assert number < 100_000
    assert len(take_out(parcel)) == number > 1


def test_one_that_is_taken_up_where_there_is_no_room(parcel: Parcel) -> None:
    assert parcel.put([0] * 20)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    messages = unpack(parcel.receiver)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 5, hard))
    try:
        found = next(messages)
        with pytest.raises(OSError, match="Too many open files"):
            next(messages)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for fd in found:
        os.close(fd)
    assert 0 < len(found) < 20
    assert [len(descriptors) for descriptors in take_out(parcel)] == [20]


def test_what_cannot_be_put_in_is_no_matter(parcel: Parcel) -> None:
    assert not parcel.put([1000001])
    assert not parcel.put([0] * 300)
    assert take_out(parcel) == []
