"""Clients that notice everything: a byte that is wrong, a moment too long, a connection refused."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from device.service import PORT, Service, receive
from rigging.errors import PATIENCE

WORD = 16
_WORDS = 1 << 16
_NUMBERS = b"".join(b"%015d\n" % number for number in range(_WORDS))

THINK = 0.02
"""Seconds between an answer and the next message of a busy client."""
VISITS = 0.01
"""Seconds between two new connections."""


def numbered(start: int, count: int) -> bytes:
    """Bytes of a stream in which each is known by its place (every MB it begins anew)."""
    start %= len(_NUMBERS)
    repeated = _NUMBERS * (1 + (start + count) // len(_NUMBERS))
    return repeated[start : start + count]


class Talker:
    """A busy client: sends a piece of a numbered stream, hears it, thinks, sends the next."""

    def __init__(self, client: socket.socket, number: int) -> None:
        self.client = client
        self.name = f"busy client {number}"
        self.trips = 0
        self.sent = 0
        self._position = number * WORD
        self._expected = b""
        self._sent_at = 0.0

    def say(self) -> None:
        """Send; raises OSError."""
        # From a few bytes to some that take several reads.
        size = 1 + (self._position * 2654435761) % 4096
        self._expected = numbered(self._position, size)
        self._position += size
        self.sent += size
        self._sent_at = time.monotonic()
        self.client.sendall(self._expected)

    def hear(self) -> float:
        """Seconds that the trip took, 0 if it is not over. Raises ValueError or OSError."""
        heard = self.client.recv(65536)
        if not heard:
            raise ValueError(f"{self.name}: the end, in trip {self.trips}")
        if not self._expected.startswith(heard):
            raise ValueError(f"{self.name}: {heard[:40]!r} instead of {self._expected[:40]!r}")
        self._expected = self._expected[len(heard) :]
        if self._expected:
            return 0.0
        self.trips += 1
        return time.monotonic() - self._sent_at


class Load:
    """Busy clients and a stream of new ones; a context manager that lives as long as they do.

    ``wrong`` says what they lived through, best read when it is over. ``longest`` is the longest
    round trip in seconds, ``longest_visit`` the longest time from connect to the end.
    """

    def __init__(self, graced: Service, clients: Iterable[socket.socket], port: int = PORT) -> None:
        self.wrong: list[str] = []
        self.longest = 0.0
        self.longest_visit = 0.0
        self.visits = 0
        self._device = graced.device
        self._port = port
        self._talkers = [Talker(client, number) for number, client in enumerate(clients)]
        self._ending = threading.Event()
        self._rounds = threading.Semaphore(0)
        self._threads = [threading.Thread(target=self._talk), threading.Thread(target=self._visit)]

    @property
    def trips(self) -> int:
        """Messages that came back."""
        return sum(talker.trips for talker in self._talkers)

    @property
    def sent(self) -> list[int]:
        """Bytes that each busy client has sent."""
        return [talker.sent for talker in self._talkers]

    def rounds(self, count: int) -> None:
        """Return when each busy client has made that many further trips."""
        goal = min(talker.trips for talker in self._talkers) + count
        deadline = time.monotonic() + PATIENCE
        while min(talker.trips for talker in self._talkers) < goal and not self.wrong:
            assert self._rounds.acquire(timeout=deadline - time.monotonic())

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _talk(self) -> None:
        poll = select.poll()
        by_fd = {talker.client.fileno(): talker for talker in self._talkers}
        thinking = deque((0.0, talker) for talker in self._talkers)
        waiting: set[Talker] = set()
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        while waiting or not self._ending.is_set():
            now = time.monotonic()
            while thinking and thinking[0][0] <= now and not self._ending.is_set():
                _, talker = thinking.popleft()
                waiting.add(talker)
                self._try(talker.say)
                self._rounds.release()
            next_at = thinking[0][0] if thinking and not self._ending.is_set() else now + PATIENCE
            ready = poll.poll(1000 * max(0.0, next_at - time.monotonic()))
            if not ready and next_at == now + PATIENCE:
                self.wrong += [f"{talker.name}: no answer" for talker in waiting]
                return
            for fd, _ in ready:
                talker = by_fd[fd]
                took = self._try(talker.hear)
                if took is None:
                    poll.unregister(fd)
                    waiting.discard(talker)
                elif took:
                    self.longest = max(self.longest, took)
                    waiting.discard(talker)
                    thinking.append((time.monotonic() + THINK, talker))

    def _try(self, action: object) -> float | None:
        assert callable(action)
        try:
            return action() or 0.0
        except (OSError, ValueError) as error:
            self.wrong.append(str(error))
            return None

    def _visit(self) -> None:
        self._device.inside(self._visit_again_and_again)

    def _visit_again_and_again(self) -> None:
        while not self._ending.wait(VISITS):
            begun = time.monotonic()
            message = b"visit %d" % self.visits
            try:
                with socket.create_connection(("127.0.0.1", self._port), PATIENCE) as client:
                    client.sendall(message)
                    heard = receive(client, len(message))
                    client.shutdown(socket.SHUT_WR)
                    heard += client.recv(64)
            except OSError as error:
                self.wrong.append(f"visit {self.visits}: {error}")
            else:
                if heard != message:
                    self.wrong.append(f"visit {self.visits}: {heard!r}")
            self.visits += 1
            self.longest_visit = max(self.longest_visit, time.monotonic() - begun)
