"""The pool of threads for blocking handlers: one thread for each client, up to a limit."""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections import deque
from threading import Condition, Lock, Thread, current_thread, get_ident

from graced.handlers.handler_socket import HandlerSocket
from graced.handlers.strays import Strays
from graced.log import events
from graced.log.event import summary_of
from graced.loop.client import Client
from graced.loop.phase import NOT_TOLD
from graced.signals import NUDGE
from graced.sockets.closing import discard, end_both_ways, end_one_way, linger
from graced.sockets.timeout import set_timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Run = Callable[[Any, Any], None]
    """Runs a handler to its end; the arguments are the request and the client's address, as in
    `socketserver`."""

HANDLER_ENDED = "handler ended"
"""The reason in the log for a client whose handler has returned."""
RESET = "reset by the client"
"""The reason in the log for a client whose connection broke under its handler."""
DEADLINE = "deadline"
"""The reason in the log for a client that was closed at the deadline."""
LAST_WRITES_TIMEOUT = 0.2
"""Seconds that the answers of all handlers together may take to be complete at the deadline.

An answer is complete when the client has acknowledged it, for which a client may take 40 ms."""
_LAST_WRITES_INTERVAL = 0.005
"""Seconds between two looks at handlers that have not."""


class _Session:
    """A client with its request, until the handler has returned."""

    __slots__ = ("client", "request", "thread")

    def __init__(self, client: Client, request: socket.socket) -> None:
        self.client = client
        self.request = request
        self.thread = 0
        """The identity of the handler's thread; 0 while the session waits for a thread."""


class HandlerPool:
    """Runs handlers in threads.  Any thread may call."""

    daemon_threads = True
    """Whether the interpreter exits while a handler runs."""

    def __init__(
        self,
        run: Run,
        *,
        greet: bool,
        max_threads: int,
        movable: bool,
        farewell: bytes | None,
        gap: float,
        stall_timeout: float,
        on_close: Callable[[Client, str], None],
    ) -> None:
        """Create a pool without threads.

        `greet`: whether handlers speak first.  `max_threads`: handlers that run at once; further
        clients wait, with their data unread.  `movable`: whether handlers can save their state and
        go on in another process.  `farewell`, `gap`, `stall_timeout`: see `graced.loop.policy`.
        `on_close` is called in the handler's thread for each client that was closed, with the
        reason for the log.
        """
        self.greet = greet
        self.movable = movable
        self._run = run
        self._max_threads = max_threads
        self._farewell = farewell
        self._gap = gap
        self._stall_timeout = stall_timeout
        self._on_close = on_close
        self._lock = Lock()
        self._session_ended = Condition(self._lock)
        self._strays = Strays(gap)
        self._frozen: list[Client] = []
        self._waiting: deque[_Session] = deque()
        self._sessions: set[_Session] = set()
        self._threads: set[Thread] = set()
        self._starting = 0
        self._draining = False
        self._closing = False

    def start(self, client: Client) -> None:
        """Start a handler for `client`, which belongs to the pool from now on."""
        request = client.sock
        if type(request) is socket.socket:
            request = HandlerSocket(
                request, self._farewell, self._gap, told=client.told != NOT_TOLD
            )
            request.saved = client.saved
            client.sock = request
        request.setblocking(True)
        if self._stall_timeout:
            # A write of the handler fails after so long without progress, socket(7).
            set_timeout(request, socket.SO_SNDTIMEO, self._stall_timeout)
        session = _Session(client, request)
        with self._lock:
            self._sessions.add(session)
            self._waiting.append(session)
            missing = len(self._waiting) - self._starting
            free = self._max_threads - len(self._threads)
            threads = [
                Thread(target=self._work, name=f"handler {client}", daemon=self.daemon_threads)
                for _ in range(min(missing, free))
            ]
            self._threads.update(threads)
            self._starting += len(threads)
            draining, closing = self._draining, self._closing
        if closing:
            _tell_at_deadline([request])
            _end(request)
        elif draining and isinstance(request, HandlerSocket):
            request.begin_drain()
        for thread in threads:
            self._start(thread, session)

    def _start(self, thread: Thread, session: _Session) -> None:
        try:
            thread.start()
        except RuntimeError as error:
            # The limit of tasks is reached.  A running thread serves the client later, if any runs.
            with self._lock:
                self._threads.discard(thread)
                self._starting -= 1
                stranded = not self._threads and session in self._waiting
                if stranded:
                    self._waiting.remove(session)
            if stranded:
                end_one_way(session.request)
                self._close(session, str(error))

    def drain(self) -> None:
        """Say goodbye to the clients that are at rest.

        The caller then calls `say_goodbyes` after the gap, and again and again.
        """
        with self._lock:
            self._draining = True
            requests = [session.request for session in self._sessions]
        for request in requests:
            if isinstance(request, HandlerSocket):
                request.begin_drain()
        self.say_goodbyes()

    def say_goodbyes(self) -> float:
        """Say goodbye to the clients that are at rest now.

        Return the seconds after which another may be at rest; infinite: none is left.
        """
        with self._lock:
            requests = [session.request for session in self._sessions]
        ours = [each for each in requests if isinstance(each, HandlerSocket)]
        waits = [each.say_goodbye() for each in ours]
        return min([self._strays.say_goodbyes(ours), *filter(None, waits)])

    def close_idle(self, timeout: float) -> float:
        """Close the clients that have been silent for `timeout` seconds.

        Return the seconds of the longest silence among the other clients.
        """
        with self._lock:
            requests = [session.request for session in self._sessions]
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
        """Start no more handlers, freeze handlers that are movable, and return their clients.

        `timeout`: seconds within which a handler has to reach a read; otherwise its client remains.
        """
        with self._lock:
            for session in self._waiting:
                self._sessions.discard(session)
                self._reclaim(session)
            self._waiting.clear()
            if self.movable:
                for session in self._sessions:
                    if isinstance(session.request, HandlerSocket):
                        session.request.freeze()
                self._interrupt_reads()
                self._session_ended.wait_for(lambda: not self._sessions, timeout)
                for session in self._sessions:
                    if isinstance(session.request, HandlerSocket):
                        session.request.thaw()
            frozen, self._frozen = self._frozen, []
            return frozen

    def _interrupt_reads(self) -> None:
        """Interrupt the threads that wait in a read: the read then finds its socket frozen."""
        try:
            for session in self._sessions:
                # The thread cannot have ended: this thread holds the lock.
                signal.pthread_kill(session.thread, NUDGE)
        except OSError as error:
            # A filter forbids tgkill(2): a handler that waits in a read remains in the read.
            events.LIMITS(reason=f"handlers cannot be woken for the handover: {error.strerror}")

    def _reclaim(self, session: _Session) -> None:
        """Take a frozen client back from its handler, with the state that the handler saved."""
        client, request = session.client, session.request
        if isinstance(request, HandlerSocket):
            request.thaw()
            client.echoed += request.written
            client.saved = request.saved
        client.last = time.monotonic()
        client.sock = socket.socket(fileno=_release(request))
        client.sock.setblocking(False)
        self._frozen.append(client)

    def close_all(self) -> int:
        """End the connections of all clients, and return the number of clients."""
        with self._lock:
            self._closing = True
            requests = [session.request for session in self._sessions]
        pending = _tell_at_deadline(requests)
        until = time.monotonic() + LAST_WRITES_TIMEOUT
        while pending and time.monotonic() < until:
            time.sleep(_LAST_WRITES_INTERVAL)
            pending = _tell_at_deadline(pending)
        for request in requests:
            _end(request)
        self._strays.end(each for each in requests if isinstance(each, HandlerSocket))
        return len(requests)

    def join(self, timeout: float) -> int:
        """Wait for the handlers, for `timeout` seconds in all; return the number still running."""
        deadline = time.monotonic() + timeout
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            return len(self._threads)

    @property
    def threads(self) -> list[Thread]:
        """The threads in which handlers run."""
        with self._lock:
            return list(self._threads)

    def _work(self) -> None:
        with self._lock:
            self._starting -= 1
        while session := self._next_session():
            self._run_session(session)

    def _next_session(self) -> _Session | None:
        """The session that has waited longest; None ends the thread."""
        with self._lock:
            if self._waiting:
                session = self._waiting.popleft()
                session.thread = get_ident()
                if isinstance(session.request, HandlerSocket):
                    session.request.thread = current_thread()
                return session
            self._threads.discard(current_thread())
            return None

    def _run_session(self, session: _Session) -> None:
        client, request = session.client, session.request
        reason = HANDLER_ENDED
        try:
            if isinstance(request, HandlerSocket):
                request.lineage.watch()
            self._run(request, client.address)
        except ConnectionError:
            # No fault of the handler: the client has reset the connection.
            reason = RESET
        except BaseException as error:
            reason = self._log_failure(client, request, error)
        finally:
            self._end(session, reason)

    def _log_failure(self, client: Client, request: socket.socket, error: BaseException) -> str:
        if isinstance(error, BlockingIOError) and self._stall_timeout and _blocks(request):
            # The error of a write after SO_SNDTIMEO.
            return "stalled"
        if _is_end_of_tls(error):
            return HANDLER_ENDED if self._draining else RESET
        events.HANDLER_FAILED(client=client, reason=summary_of(error), exc_info=error)
        return "handler failed"

    def _is_frozen(self, session: _Session) -> bool:
        """Whether the handler has saved its state; the client is reclaimed then."""
        request = session.request
        with self._lock:
            if not (isinstance(request, HandlerSocket) and request.freezing):
                return False
            if request.saved is None or request.fileno() < 0:
                return False
            self._sessions.discard(session)
            self._reclaim(session)
            self._session_ended.notify()
        return True

    def _end(self, session: _Session, reason: str) -> None:
        if self._is_frozen(session):
            return
        request = session.request
        if isinstance(request, HandlerSocket):
            request.outlive_children()
            session.client.echoed += request.written
            if request.detached:
                self._strays.remember(request.gone)
        if self._closing:
            reason = DEADLINE
            discard(request)
        elif self._draining or _was_freezing(request):
            # The words of a handler that has failed may end in the middle.
            if isinstance(request, HandlerSocket) and reason == HANDLER_ENDED:
                request.tell_at_end()
            linger(request)
        else:
            # As in `socketserver`: a copy of the descriptor would delay the end of file.
            end_one_way(request)
        self._close(session, reason)

    def _close(self, session: _Session, reason: str) -> None:
        with self._lock:
            self._sessions.discard(session)
            self._session_ended.notify()
        try:
            session.request.close()
        finally:
            self._on_close(session.client, reason)


def _was_freezing(request: socket.socket) -> bool:
    """Whether the handler has ended instead of saving its state; the socket is thawed then."""
    if not (isinstance(request, HandlerSocket) and request.freezing):
        return False
    request.thaw()
    return True


def _is_end_of_tls(error: BaseException) -> bool:
    """Whether a TLS session has ended because its connection has, which is no fault of the handler.

    OpenSSL takes an end of file without a close_notify for an error, unless a handler sets
    `ssl.OP_IGNORE_UNEXPECTED_EOF`, and refuses to write afterwards.
    """
    # Not imported: a server without TLS would pay for the module.
    ssl = sys.modules.get("ssl")
    return ssl is not None and isinstance(error, ssl.SSLEOFError)


def _blocks(request: socket.socket) -> bool:
    return request.fileno() >= 0 and request.gettimeout() is None


def _release(request: socket.socket) -> int:
    return request.release() if isinstance(request, HandlerSocket) else request.detach()


def _tell_at_deadline(requests: Sequence[socket.socket]) -> list[HandlerSocket]:
    """Send a declared farewell to clients at rest; return the requests of the others."""
    ours = [each for each in requests if isinstance(each, HandlerSocket)]
    return [each for each in ours if not each.tell_at_deadline()]


def _end(request: socket.socket) -> None:
    """Send end of file to client and handler."""
    if isinstance(request, HandlerSocket):
        request.end()
    else:
        end_both_ways(request)
