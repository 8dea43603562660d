"""File descriptor bundles."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from graced.handover.fd_bundle import MAX_DESCRIPTORS, FdBundle, unpack
from support.descriptors import room_for


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
    """The inodes of the descriptors in a bundle; the copies are closed again."""
    found = []
    for descriptors in unpack(bundle.receiver):
        found.append([os.fstat(fd).st_ino for fd in descriptors])
        for fd in descriptors:
            assert not os.get_inheritable(fd)
            os.close(fd)
    return found


def test_descriptors_come_out_in_the_order_of_put(bundle: FdBundle, pipe: tuple[int, int]) -> None:
    one, two = (os.fstat(fd).st_ino for fd in (pipe[0], 0))
    assert bundle.put([pipe[0]])
    assert bundle.put([pipe[0], 0, pipe[0]])
    assert bundle.put([pipe[0]] * MAX_DESCRIPTORS)
    for _ in range(3):
        # It stays in there: whoever takes it up may not live to use it.
        assert take_out(bundle) == [[one], [one, two, one], [one] * MAX_DESCRIPTORS]


def test_empty_bundle_yields_nothing(bundle: FdBundle) -> None:
    assert take_out(bundle) == []


def test_bundle_keeps_descriptors_that_are_closed_elsewhere(bundle: FdBundle) -> None:
    ours, theirs = socket.socketpair()
    assert bundle.put([ours.fileno()])
    ours.close()
    with bundle.receiver.dup() as receiver:
        bundle.close()
        ((fd,),) = unpack(receiver)
    with socket.socket(fileno=fd) as again, theirs:
        again.send(b"still here")
        assert theirs.recv(64) == b"still here"


def test_descriptors_are_closed_with_the_last_receiver(bundle: FdBundle) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        assert bundle.put([ours.fileno()])
        ours.close()
        bundle.close()
        assert theirs.recv(1) == b""


def test_full_bundle_refuses_more_and_keeps_the_rest(bundle: FdBundle) -> None:
    number = 0
    while bundle.put([0]):
        number += 1
        assert number < 100_000
    assert len(take_out(bundle)) == number > 1


def test_unpack_without_free_descriptors_is_an_error(bundle: FdBundle) -> None:
    assert bundle.put([0] * 20)
    messages = unpack(bundle.receiver)
    with room_for(5):
        found = next(messages)
        with pytest.raises(OSError, match="Too many open files"):
            next(messages)
    for fd in found:
        os.close(fd)
    assert len(found) == 5
    assert [len(descriptors) for descriptors in take_out(bundle)] == [20]


def test_bad_descriptor_is_refused(bundle: FdBundle) -> None:
    assert not bundle.put([1000001])
    assert not bundle.put([0] * 300)
    assert take_out(bundle) == []


@pytest.mark.parametrize(("failures", "put"), [(1, True), (2, True), (3, False)])
@pytest.mark.parametrize("error", [errno.ENOBUFS, errno.ENOMEM])
def test_shortage_of_a_moment_is_not_the_end(
    error: int, failures: int, put: bool, bundle: FdBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one failure at a restart disconnects all clients that are not in the bundle yet."""
    remaining = [OSError(error, os.strerror(error))] * failures
    send_fds = socket.send_fds

    def failing(*arguments: Any) -> int:
        if remaining:
            raise remaining.pop()
        return send_fds(*arguments)

    monkeypatch.setattr("graced.handover.fd_bundle.socket.send_fds", failing)
    assert bundle.put([bundle.receiver.fileno()]) == put
    monkeypatch.undo()
    assert len(take_out(bundle)) == put
