"""Threads for handlers that block: one for each client, up to a limit."""

from __future__ import annotations

import signal
import socket
import time
from collections import deque
from threading import Condition, Lock, Thread, current_thread, get_ident

from graced.handlers.handler_socket import HandlerSocket, set_timeout
from graced.log import events
from graced.log.event import summary_of
from graced.loop.client import Client
from graced.loop.phase import NOT_TOLD
from graced.signals import NUDGE
from graced.sockets.closing import end_both_ways, end_one_way, linger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Run = Callable[[Any, Any], None]
    """Runs a handler to its end: takes the request and the client's address, as `socketserver`."""

DEADLINE = "deadline"
"""Why a client left that was hung up on."""
PATIENCE = 0.5
"""Seconds beyond the gap that a handler has to come to a pause in which its client can be told."""
LAST_WRITES = 0.05
"""Seconds that the writes of all handlers together may take to end at the deadline."""


class _Visit:
    """A client with its request, from the first byte until the handler has returned."""

    __slots__ = ("client", "request", "thread")

    def __init__(self, client: Client, request: socket.socket) -> None:
        self.client = client
        self.request = request
        self.thread = 0
        """The thread that the handler runs in; 0: it waits for one."""


class HandlerPool:
    """Runs handlers.  Any thread may call."""

    def __init__(
        self,
        run: Run,
        *,
        greet: bool,
        max_threads: int,
        movable: bool,
        farewell: bytes,
        gap: float,
        stall_timeout: float,
        leave: Callable[[Client, str], None],
    ) -> None:
        """`movable`: whether the handlers can go on in another process.

        `leave` is told, in the handler's thread, of each client that is gone, and why.

        Clients beyond `max_threads` wait until a thread is free, with their data unread.
        """
        self.greet = greet
        self.movable = movable
        self._run = run
        self._max_threads = max_threads
        self._farewell = farewell
        self._gap = gap
        self._stall_timeout = stall_timeout
        self._leave = leave
        self._lock = Lock()
        self._gone = Condition(self._lock)
        """Notified when a visit is over."""
        self._moved: list[Client] = []
        self._waiting: deque[_Visit] = deque()
        self._visits: set[_Visit] = set()
        self._threads: set[Thread] = set()
        self._starting = 0
        self._draining = False
        self._patient_until = 0.0
        self._closing = False

    def take(self, client: Client) -> None:
        """Have a handler talk to `client`, whose socket is given away."""
        request = client.sock
        if type(request) is socket.socket:
            request = HandlerSocket(
                request, self._farewell, self._gap, told=client.told != NOT_TOLD
            )
            request.saved = client.saved
            client.sock = request
        request.setblocking(True)
        if self._stall_timeout:
            # A write of the handler fails when nothing was taken for so long, socket(7).
            set_timeout(request, socket.SO_SNDTIMEO, self._stall_timeout)
        visit = _Visit(client, request)
        with self._lock:
            self._visits.add(visit)
            self._waiting.append(visit)
            missing = len(self._waiting) - self._starting
            free = self._max_threads - len(self._threads)
            threads = [
                Thread(target=self._work, name=f"handler {client}", daemon=True)
                for _ in range(min(missing, free))
            ]
            self._threads.update(threads)
            self._starting += len(threads)
            draining, closing = self._draining, self._closing
        if closing:
            _hang_up(request, 0.0)
        elif draining and isinstance(request, HandlerSocket):
            request.tell(insist=False)
        for thread in threads:
            self._start(thread, visit)

    def _start(self, thread: Thread, visit: _Visit) -> None:
        try:
            thread.start()
        except RuntimeError as error:
            # The limit of tasks is reached; a running thread will take the client on, if any is.
            with self._lock:
                self._threads.discard(thread)
                self._starting -= 1
                stranded = not self._threads and visit in self._waiting
                if stranded:
                    self._waiting.remove(visit)
            if stranded:
                end_one_way(visit.request)
                self._forget(visit, str(error))

    def drain(self) -> None:
        """Tell the clients of all handlers that are quiet.

        To be followed by `remind`: the first time when the others can have become quiet, and
        again and again for those who are not: after `PATIENCE` they are told all the same.
        """
        with self._lock:
            self._draining = True
            self._patient_until = time.monotonic() + self._gap + PATIENCE
        self._send_farewell(insist=False)

    def remind(self) -> None:
        """Tell who could not be told before."""
        self._send_farewell(insist=time.monotonic() >= self._patient_until)

    def _send_farewell(self, *, insist: bool) -> None:
        with self._lock:
            requests = [visit.request for visit in self._visits]
        for request in requests:
            if isinstance(request, HandlerSocket):
                request.tell(insist=insist)

    def close_idle(self, timeout: float) -> float:
        """End the conversations in which nothing was said for `timeout` seconds.

        Return the longest silence in the others.
        """
        with self._lock:
            requests = [visit.request for visit in self._visits]
        longest = 0.0
        for request in requests:
            if isinstance(request, HandlerSocket):
                silence = request.silence
                if silence >= timeout:
                    end_both_ways(request)
                else:
                    longest = max(longest, silence)
        return longest

    def freeze(self, timeout: float) -> list[Client]:
        """Let no handler begin any more, move those that can be, and return their clients.

        `timeout`: seconds that the handlers have to come to a read; who does not stays.
        """
        with self._lock:
            for visit in self._waiting:
                self._visits.discard(visit)
                self._take_back(visit)
            self._waiting.clear()
            if self.movable:
                for visit in self._visits:
                    if isinstance(visit.request, HandlerSocket):
                        visit.request.move()
                self._nudge()
                self._gone.wait_for(lambda: not self._visits, timeout)
                for visit in self._visits:
                    if isinstance(visit.request, HandlerSocket):
                        visit.request.stay()
            moved, self._moved = self._moved, []
            return moved

    def _nudge(self) -> None:
        """Let the threads look again that wait in a read."""
        try:
            for visit in self._visits:
                # Holding the lock: the thread cannot have ended.
                signal.pthread_kill(visit.thread, NUDGE)
        except OSError as error:
            # A filter forbids tgkill(2): who waits in a read stays in it.
            events.LIMITS(reason=f"handlers cannot be woken for the handover: {error.strerror}")

    def _take_back(self, visit: _Visit) -> None:
        client, request = visit.client, visit.request
        if isinstance(request, HandlerSocket):
            request.stay()
            client.echoed += request.written
            client.saved = request.saved
        client.last = time.monotonic()
        client.sock = socket.socket(fileno=request.detach())
        client.sock.setblocking(False)
        self._moved.append(client)

    def hang_up(self) -> int:
        """End all conversations and return how many there were."""
        with self._lock:
            self._closing = True
            requests = [visit.request for visit in self._visits]
        until = time.monotonic() + LAST_WRITES
        for request in requests:
            _hang_up(request, max(0.0, until - time.monotonic()))
        return len(requests)

    def join(self, timeout: float) -> int:
        """Wait for the handlers to return, `timeout` seconds in all; return how many have not."""
        deadline = time.monotonic() + timeout
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            return len(self._threads)

    def _work(self) -> None:
        with self._lock:
            self._starting -= 1
        while visit := self._next():
            self._visit(visit)

    def _next(self) -> _Visit | None:
        """The client that has waited longest; where there is none the thread is over."""
        with self._lock:
            if self._waiting:
                visit = self._waiting.popleft()
                visit.thread = get_ident()
                return visit
            self._threads.discard(current_thread())
            return None

    def _visit(self, visit: _Visit) -> None:
        client, request = visit.client, visit.request
        reason = "handler ended"
        try:
            self._run(request, client.address)
        except ConnectionError:
            # No fault of the handler: what the built-in ones see as well.
            reason = "reset by the client"
        except BaseException as error:
            reason = self._fault(client, request, error)
        finally:
            self._end(visit, reason)

    def _fault(self, client: Client, request: socket.socket, error: BaseException) -> str:
        if isinstance(error, BlockingIOError) and self._stall_timeout and _blocks(request):
            # What a write says when SO_SNDTIMEO is over.
            return "stalled"
        events.HANDLER_FAILED(client=client, reason=summary_of(error), exc_info=error)
        return "handler failed"

    def _has_moved(self, visit: _Visit) -> bool:
        request = visit.request
        with self._lock:
            if not (isinstance(request, HandlerSocket) and request.moving):
                return False
            if request.saved is None:
                return False
            self._visits.discard(visit)
            self._take_back(visit)
            self._gone.notify()
        return True

    def _end(self, visit: _Visit, reason: str) -> None:
        if self._has_moved(visit):
            return
        request = visit.request
        if isinstance(request, HandlerSocket):
            visit.client.echoed += request.written
        if self._closing:
            reason = DEADLINE
        elif self._draining or _was_to_move(request):
            if isinstance(request, HandlerSocket):
                request.part()
            linger(request)
        else:
            # As in `socketserver`: somebody may have a copy, and the client waits for the end.
            end_one_way(request)
        self._forget(visit, reason)

    def _forget(self, visit: _Visit, reason: str) -> None:
        with self._lock:
            self._visits.discard(visit)
            self._gone.notify()
        try:
            visit.request.close()
        finally:
            self._leave(visit.client, reason)


def _was_to_move(request: socket.socket) -> bool:
    """Whether its handler ended when it was to move."""
    if not (isinstance(request, HandlerSocket) and request.moving):
        return False
    request.stay()
    return True


def _blocks(request: socket.socket) -> bool:
    return request.fileno() >= 0 and request.gettimeout() is None


def _hang_up(request: socket.socket, patience: float) -> None:
    """Tell the client, if it is not told; the handler's next call finds the end of file."""
    if isinstance(request, HandlerSocket):
        request.tell(insist=True, patience=patience)
    end_both_ways(request)
