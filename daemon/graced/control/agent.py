"""The agent: tells HAProxy, which asks again and again, whether to send clients, and how many.

HAProxy connects ("agent-check" in its configuration manual), reads one line and closes.  Whatever
is sent to the agent means nothing: there is nothing to parse, and no peer has a state but its
descriptor, for `LINGER_TIMEOUT` at most, so that the line survives what was not read (an
``agent-send`` of HAProxy).  Of such descriptors there are `MAX_PARTING`; the oldest makes way.

The thread is its own, and not the control thread: that one ends with its last peer, and the main
thread, which accepts its peers, shall not wake up for each check.  Between two checks nothing runs.

The listeners survive nothing.  Each start binds them anew, after the end of the last process: at a
restart there is none for that moment, and HAProxy goes by the last answer.  A new process beside
the old one (`graced.reload`) cannot have the address yet: it has to bind it when the old one has
gone.
"""

from __future__ import annotations

import os
import select
from collections import deque
from math import ceil, inf
from threading import Thread
from time import monotonic

from graced.log import events
from graced.log.event import summary_of
from graced.process.lifecycle import State
from graced.sockets.closing import LINGER_TIMEOUT, part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from socket import socket

BACKLOG = 16
"""Checks that wait."""
MAX_PER_SECOND = 100
"""Checks that are answered in a second: a storm of them takes no processor from the clients."""
MAX_PARTING = 8
"""Connections that are answered, and that the other side has not closed yet."""
PAUSE = 1.0
"""Seconds without another accept, after one that has failed for want of a descriptor."""
STOP_TIMEOUT = 0.05
"""Seconds that the end of the service waits for an answer that is being given."""
_READ_SIZE = 4096
_WHOLE = 100
"""Percent."""


def answer(state: State, clients: int, most: int) -> bytes:
    """The line for a service in that state, which has so many of its `most` clients."""
    if state in {State.LAME_DUCK, State.DRAINING}:
        return b"drain\n"
    if state in {State.CLOSING, State.STOPPED}:
        return b"stopped\n"
    free = max(0, most - clients)
    # Not 0 while there is room: HAProxy would send no client.
    return b"up ready %d%%\n" % ceil(_WHOLE * free / most)


class Agent(Thread):
    """Answers checks until `stop`."""

    def __init__(self, listeners: Sequence[socket], line: Callable[[], bytes]) -> None:
        """`listeners` do not block and stay the caller's; `line` returns what to answer.

        Raises `OSError` where there is no descriptor left.
        """
        super().__init__(name="agent", daemon=True)
        self._listeners = {each.fileno(): each for each in listeners}
        self._line = line
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._parting: deque[tuple[float, socket]] = deque()
        """Connections with the time at which each is closed, the oldest first."""
        self._second = -inf
        """The beginning of the second in which `_answered` checks were answered."""
        self._answered = 0
        self._paused_until = -inf
        self._failed = False
        self._stopping = False

    def stop(self) -> None:
        """End, within `STOP_TIMEOUT`; the line of a check that comes later is not sent."""
        self._stopping = True
        os.eventfd_write(self._wake_fd, 1)
        if self.ident:
            self.join(STOP_TIMEOUT)
        if not self.is_alive():
            os.close(self._wake_fd)

    def run(self) -> None:
        """Answer checks."""
        while not self._stopping:
            ready = self._wait()
            for fd in ready & self._listeners.keys():
                self._accept(self._listeners[fd])
            self._end_parting(ready)
        while self._parting:
            self._parting.popleft()[1].close()

    def _wait(self) -> set[int]:
        """Wait until there is something to do, and return the descriptors that are ready."""
        poll = select.poll()
        poll.register(self._wake_fd, select.POLLIN)
        now, due = monotonic(), inf
        if now < self._paused_until:
            due = self._paused_until
        else:
            for fd in self._listeners:
                poll.register(fd, select.POLLIN)
        for until, sock in self._parting:
            due = min(due, until)
            poll.register(sock, select.POLLIN)
        wait = None if due == inf else max(0, ceil(1000 * (due - now)))
        return {fd for fd, _ in poll.poll(wait)}

    def _accept(self, listener: socket) -> None:
        try:
            sock, _address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            self._paused_until = monotonic() + PAUSE
            if not self._failed:
                self._failed = True
                events.AGENT_FAILED(reason=error.strerror or summary_of(error))
            return
        self._failed = False
        self._count()
        sock.setblocking(False)
        try:
            part(sock, self._line())
        except OSError:
            # The other side has gone.
            sock.close()
            return
        self._parting.append((monotonic() + LINGER_TIMEOUT, sock))
        if len(self._parting) > MAX_PARTING:
            self._parting.popleft()[1].close()

    def _count(self) -> None:
        now = monotonic()
        if now >= self._second + 1.0:
            self._second, self._answered = now, 0
        self._answered += 1
        if self._answered >= MAX_PER_SECOND:
            self._paused_until = self._second + 1.0

    def _end_parting(self, ready: set[int]) -> None:
        now = monotonic()
        for _ in range(len(self._parting)):
            until, sock = self._parting.popleft()
            if now >= until or (sock.fileno() in ready and _is_at_its_end(sock)):
                sock.close()
            else:
                self._parting.append((until, sock))


def _is_at_its_end(sock: socket) -> bool:
    """Read once what was sent, and return whether nothing can follow, or nothing more is read."""
    try:
        # As much as that is no check: the rest may be answered with a reset.
        return len(sock.recv(_READ_SIZE)) in {0, _READ_SIZE}
    except BlockingIOError:
        return False
    except OSError:
        return True
