"""Many descriptors as one."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator

import pytest

from graced.handover.fd_bundle import MOST, FdBundle, unpack


@pytest.fixture
def bundle() -> Iterator[FdBundle]:
    bundle = FdBundle()
    yield bundle
    bundle.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def take_out(bundle: FdBundle) -> list[list[int]]:
    """The inodes of what is in it; the copies are closed again."""
    found = []
    for descriptors in unpack(bundle.receiver):
        found.append([os.fstat(fd).st_ino for fd in descriptors])
        for fd in descriptors:
            assert not os.get_inheritable(fd)
            os.close(fd)
    return found


def test_it_comes_out_as_it_was_put_in(bundle: FdBundle, pipe: tuple[int, int]) -> None:
    one, two = (os.fstat(fd).st_ino for fd in (pipe[0], 0))
    assert bundle.put([pipe[0]])
    assert bundle.put([pipe[0], 0, pipe[0]])
    assert bundle.put([pipe[0]] * MOST)
    for _ in range(3):
        # It stays in there: whoever takes it up may not live to use it.
        assert take_out(bundle) == [[one], [one, two, one], [one] * MOST]


def test_one_that_is_empty(bundle: FdBundle) -> None:
    assert take_out(bundle) == []


def test_what_is_in_it_is_there_when_everybody_has_closed_his_own(bundle: FdBundle) -> None:
    ours, theirs = socket.socketpair()
    assert bundle.put([ours.fileno()])
    ours.close()
    with bundle.receiver.dup() as receiver:
        bundle.close()
        ((fd,),) = unpack(receiver)
    with socket.socket(fileno=fd) as again, theirs:
        again.send(b"still here")
        assert theirs.recv(64) == b"still here"


def test_with_the_last_receiver_it_goes(bundle: FdBundle) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        assert bundle.put([ours.fileno()])
        ours.close()
        bundle.close()
        assert theirs.recv(1) == b""


def test_one_that_is_full_says_so_and_has_the_rest(bundle: FdBundle) -> None:
    number = 0
    while bundle.put([0]):
        number += 1
        assert number < 100_000
    assert len(take_out(bundle)) == number > 1


def test_one_that_is_taken_up_where_there_is_no_room(bundle: FdBundle) -> None:
    assert bundle.put([0] * 20)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    messages = unpack(bundle.receiver)
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
    assert [len(descriptors) for descriptors in take_out(bundle)] == [20]


def test_what_cannot_be_put_in_is_no_matter(bundle: FdBundle) -> None:
    assert not bundle.put([1000001])
    assert not bundle.put([0] * 300)
    assert take_out(bundle) == []
