"""What a process uses, and how long its clients wait."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from support import Client

MESSAGE = bytes(64)


class Usage:
    """Of a process that runs."""

    def __init__(self, pid: int) -> None:
        self._proc = Path(f"/proc/{pid}")

    @property
    def cpu(self) -> float:
        """Seconds of processor time so far."""
        fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return int((self._proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def descriptors(self) -> list[int]:
        return sorted(int(name) for name in os.listdir(self._proc / "fd"))

    @property
    def threads(self) -> int:
        return len(os.listdir(self._proc / "task"))


@contextmanager
def on_processors(processors: Iterable[int]) -> Iterator[None]:
    """Have this thread, and whatever it starts meanwhile, run on these alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that so many per cent of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def median(values: Sequence[float]) -> float:
    return percentile(values, 50)


def ping_pong(clients: Sequence[Client], seconds: float) -> list[float]:
    """Have each of them send a message as soon as the one before is back; the times of the trips.

    Raises `AssertionError` where something else than the message comes back.
    """
    poll = select.epoll()
    by_fd = {client.sock.fileno(): client.sock for client in clients}
    sent = {}
    took = []
    try:
        for fd, sock in by_fd.items():
            poll.register(fd, select.EPOLLIN)
            sent[fd] = time.perf_counter()
            sock.send(MESSAGE)
        end = time.perf_counter() + seconds
        while sent:
            ready = poll.poll(20)
            assert ready, "no answer in 20 s"
            for fd, _ in ready:
                assert by_fd[fd].recv(4096) == MESSAGE
                now = time.perf_counter()
                took.append(now - sent.pop(fd))
                if now < end:
                    sent[fd] = now
                    by_fd[fd].send(MESSAGE)
    finally:
        poll.close()
    return took


def paced(clients: Sequence[Client], seconds: float, interval: float = 0.05) -> list[float]:
    """A round trip of one of them now and then; the times of the trips."""
    clock = select.poll()
    took = []
    end = time.perf_counter() + seconds
    number = 0
    while (began := time.perf_counter()) < end:
        clients[number % len(clients)].echo(MESSAGE)
        took.append(time.perf_counter() - began)
        number += 1
        clock.poll(interval * 1000)
    return took
