"""The poller: descriptors, posted actions, timers."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from select import EPOLLIN, EPOLLOUT
from socket import socketpair
from typing import Any
from unittest.mock import Mock

import pytest

from graced.loop import poller as poller_module
from graced.loop.event_source import EventSource
from graced.loop.phase import GONE, LISTENING, STREAMING, WAKING
from graced.loop.poller import MAX_POLL_TIMEOUT, Poller
from graced.loop.transport import Transport
from support import PATIENCE


@pytest.fixture
def poller() -> Iterator[Poller]:
    poller = Poller()
    yield poller
    poller.close()


def phases(poller: Poller, timeout: float = 0) -> list[int]:
    return [poller.sources[fd].phase for fd, _ in poller.epoll.poll(timeout)]


def test_posted_action_wakes_the_poller(poller: Poller) -> None:
    done: list[int] = []
    thread = threading.Thread(target=poller.post, args=(lambda: done.append(1),))
    thread.start()
    assert phases(poller, PATIENCE) == [WAKING]
    thread.join(PATIENCE)
    poller.woken(EventSource(WAKING), 0)
    assert done == [1]
    assert phases(poller) == []


def test_action_may_post_another(poller: Poller) -> None:
    done: list[int] = []
    poller.post(lambda: poller.post(lambda: done.append(1)))
    poller.run_posted()
    assert done == [1]


def test_registered_descriptor_has_its_source(poller: Poller) -> None:
    source = EventSource(LISTENING)
    ours, theirs = socketpair()
    with ours, theirs:
        fd = ours.fileno()
        poller.register(fd, source, EPOLLIN)
        assert phases(poller) == []
        theirs.send(b"hello")
        assert phases(poller) == [LISTENING]
        poller.modify(fd, 0)
        assert phases(poller) == []
        poller.modify(fd, EPOLLOUT)
        assert phases(poller) == [LISTENING]
        poller.unregister(fd)
        assert phases(poller) == []
        assert poller.sources[fd].phase == GONE


def test_descriptor_that_epoll_refuses_has_no_source(poller: Poller) -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        with pytest.raises(PermissionError):
            poller.register(fd, EventSource(LISTENING), EPOLLIN)
        assert poller.sources[fd].phase == GONE
    finally:
        os.close(fd)


def test_timeout_is_bounded(poller: Poller) -> None:
    assert poller.timeout() == MAX_POLL_TIMEOUT
    poller.schedule_after(EventSource(LISTENING), -1.0)
    assert poller.timeout() == 0.0


def test_source_expires_after_its_time(poller: Poller) -> None:
    source = EventSource(LISTENING)
    poller.schedule_after(source, 5.0)
    poller.now += 4.9
    assert list(poller.expired()) == []
    poller.now += 0.2
    assert list(poller.expired()) == [source]


class Refused:
    """A set that has room for two descriptors: fs.epoll.max_user_watches."""

    def __init__(self) -> None:
        self.registered = 0
        self.closed = False
        refused.append(self)

    def register(self, *_arguments: int) -> None:
        self.registered += 1
        if self.registered > 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    def close(self) -> None:
        self.closed = True


refused: list[Refused] = []


@pytest.mark.parametrize("lack", ["", "descriptors", "watches"])
@pytest.mark.parametrize("number", [2, 9], ids=["few", "many"])
def test_unregister_all(
    poller: Poller, monkeypatch: pytest.MonkeyPatch, lack: str, number: int
) -> None:
    """The others are waited for; without what a new set takes, in the old one."""
    pairs = [socket.socketpair() for _ in range(2 + number)]
    ours = [one.fileno() for one, _ in pairs]
    streams: Any = Mock()
    transport = Transport(streams, pairs[3][0], "host", 1, STREAMING, 0.0)
    sources = [EventSource(LISTENING) for _ in pairs]
    sources[3] = transport
    for (one, theirs), source in zip(pairs, sources, strict=True):
        poller.register(one.fileno(), source, EPOLLIN)
        theirs.send(b"?")
    # Nothing is read, but the client takes bytes.
    transport.interest = EPOLLOUT
    poller.modify(ours[3], EPOLLOUT)
    # The connection is broken, and nothing is waited for.
    poller.epoll.unregister(ours[0])
    old = poller.epoll
    if lack == "descriptors":

        def fail() -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(poller_module, "epoll", fail)
    elif lack == "watches":
        monkeypatch.setattr(poller_module, "epoll", Refused)
    poller.unregister_all([ours[0], ours[2], *ours[4:]])
    assert (poller.epoll is old) == (number == 2 or bool(lack))
    assert all(each.closed for each in refused)
    found = {poller.sources[fd]: event for fd, event in poller.epoll.poll(0)}
    assert found == {sources[1]: EPOLLIN, transport: EPOLLOUT}
    ran: list[int] = []
    poller.unregister(ours[1])
    poller.unregister(ours[3])
    poller.post(lambda: ran.append(1))
    ((fd, event),) = poller.epoll.poll(0)
    poller.woken(poller.sources[fd], event)
    assert ran == [1]
    for each in sum(pairs, ()):
        each.close()
