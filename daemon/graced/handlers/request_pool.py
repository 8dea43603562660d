"""The pool of a program that decides, as in `socketserver`, which thread serves a request.

`socketserver` gives each accepted connection to ``process_request``, and closes nothing itself:
``shutdown_request`` does, in any thread, or the connection stays open.  So there are
requests without a thread of the pool: before ``process_request`` has asked for a thread, while
threads of the program serve the request, and after the handler has returned without closing it.
Such a request is *kept*: its client is counted and told, and is closed at the deadline.

The pool has only a weak reference to a kept request.  A program may drop its socket instead of
closing it, and the interpreter then closes the connection, as it does without graced.
"""

from __future__ import annotations

import socket
from math import inf
from threading import get_ident
from weakref import WeakKeyDictionary, ref

from graced.handlers.handler_socket import HandlerSocket
from graced.handlers.pool import HandlerPool
from graced.handlers.rest import ANY_THREAD
from graced.handlers.session import HANDLER_ENDED, Session
from graced.loop.connection_log import DEADLINE
from graced.sockets import elsewhere
from graced.sockets.closing import end_both_ways

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from graced.handlers.pool import Run
    from graced.handlers.request_listener import Arrival
    from graced.loop.client import Client

FIRST_SWEEP = 64
"""Sessions from which on a new request looks for kept requests that have been closed."""


def _closed_socket() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.close()
    return sock


class _KeptSession(Session):
    """A client whose request belongs to the program."""

    __slots__ = ("_reference", "cookie", "key")

    _nothing = _closed_socket()

    def __init__(self, client: Client, request: socket.socket, address: Any) -> None:
        super().__init__(client, request, address)
        self.key = id(request)
        self.cookie = elsewhere.cookie(request) if is_open(request) else 0
        """Finds the connection where the program has wrapped the request."""

    @property
    def request(self) -> socket.socket:
        """The request; a closed socket after the program has dropped the request."""
        return self._reference() or self._nothing

    @request.setter
    def request(self, request: socket.socket) -> None:
        self._reference = ref(request)

    @property
    def is_closed(self) -> bool:
        """Whether the program has closed the request."""
        request = self._reference()
        return request is not None and not is_open(request) and not _is_detached(request)

    @property
    def is_lost(self) -> bool:
        """Whether the program has dropped the request, or taken the descriptor away."""
        request = self._reference()
        return request is None or (not is_open(request) and _is_detached(request))


def _is_detached(request: socket.socket) -> bool:
    return isinstance(request, HandlerSocket) and request.detached


def is_open(request: socket.socket) -> bool:
    """Whether a request has a descriptor."""
    try:
        return request.fileno() >= 0
    except (OSError, ValueError):
        return False


class RequestPool(HandlerPool):
    """Gives each request to `process`, and runs those in threads for which `process` asks."""

    def __init__(
        self,
        run: Run,
        *,
        process: Run,
        arrivals: WeakKeyDictionary[Any, Arrival],
        daemon_threads: bool,
        **options: Any,
    ) -> None:
        """`process` is called in the I/O thread; `options`: see `HandlerPool`.

        `arrivals`: what `get_request` has decided, for requests that were not started yet.
        """
        super().__init__(self._run_request, **options)
        self.daemon_threads = daemon_threads
        self._arrivals = arrivals
        self._timeouts: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
        """The timeouts of requests that wait for a thread, in seconds."""
        self._process = process
        self._run_in_thread = run
        self._kept: dict[int, _KeptSession] = {}
        """The sessions of kept requests, by the `id` of the request."""
        self._in_process: tuple[int, _KeptSession] | None = None
        """The thread that is in `process`, and the session."""
        self._next_sweep = FIRST_SWEEP

    def own(self, request: Any) -> Any:
        """The socket on which the server can say goodbye, in place of a plain one."""
        if type(request) is not socket.socket:
            return request
        timeout = request.gettimeout()
        own = HandlerSocket(request, self._farewell, self._gap, told=False)
        own.settimeout(timeout)
        return own

    def reserve(self) -> bool:
        """The program decides whether a request needs a thread."""
        return True

    def start(self, client: Client) -> bool:
        """Give the request of a client to `process`.  For the I/O thread."""
        if len(self._sessions) >= self._next_sweep:
            self.release_closed()
            self._next_sweep = FIRST_SWEEP + 2 * len(self._sessions)
        request: Any = client.sock
        address, timeout = self._arrivals.pop(request)
        request.settimeout(timeout)
        session = self._keep(client, request, address)
        self._in_process = get_ident(), session
        try:
            self._process(request, address)
        finally:
            self._in_process = None
        return True

    def run(self, request: Any, address: Any) -> bool:
        """Run the handler of a request in a thread.  Any thread may call.

        Return False for a connection that is none of this server, or that the program has put into
        an object that is no socket.  Raises `RuntimeError` where no thread can be started; the
        request then belongs to the program, as before.
        """
        session = self._find(request, address) if isinstance(request, socket.socket) else None
        if session is None:
            return False
        timeout = request.gettimeout()
        if timeout is not None:
            self._timeouts[request] = timeout
        if self._forget(session):
            if isinstance(request, HandlerSocket):
                request.thread = None
            session.client.sock = request
            started = self._enqueue(session.client, session.address)
            try:
                self._start_thread(started)
            except RuntimeError:
                request.settimeout(self._timeouts.pop(request, None))
                self._keep(session.client, request, session.address)
                raise
        return True

    def _find(self, request: Any, address: Any) -> _KeptSession | None:
        with self._lock:
            session = self._kept.get(id(request))
            if session and session.request is request:
                return session
            if self._in_process and self._in_process[0] == get_ident():
                # `process` has wrapped the request, for example in TLS.
                return self._in_process[1]
            sessions = [each for each in self._kept.values() if each.address == address]
        return next((each for each in sessions if address and each.is_lost), None)

    def _run_request(self, request: Any, address: Any) -> None:
        timeout = self._timeouts.pop(request, None)
        if timeout is not None:
            request.settimeout(timeout)
        try:
            self._run_in_thread(request, address)
        except SystemExit:
            # As in `threading`: the handler ends, and nothing is printed.
            return

    def drain(self, last: float = inf) -> None:
        """Say goodbye, also to the clients of requests that are sockets of another class."""
        with self._lock:
            requests = [session.request for session in self._sessions]
        for request in requests:
            self._tell(request)
        super().drain(last)

    def _tell(self, request: socket.socket) -> None:
        if isinstance(request, HandlerSocket):
            request.begin_drain()
        elif isinstance(request, socket.socket):
            self._strays.remember(elsewhere.cookie(request))

    # Kept requests.

    def _keep(self, client: Client, request: socket.socket, address: Any) -> _KeptSession:
        session = _KeptSession(client, request, address)
        if isinstance(request, HandlerSocket):
            request.thread = ANY_THREAD
        # The only reference to the request is that of the program.
        del client.sock
        with self._lock:
            replaced = self._kept.get(session.key)
            self._kept[session.key] = session
            self._sessions.add(session)
            closing = self._closing
        if replaced:
            # The address in memory of a request that was dropped is used again.
            self._depart(replaced, "dropped")
        if closing:
            end_both_ways(request)
        elif self._draining:
            self._tell(request)
        return session

    def _forget(self, session: _KeptSession) -> bool:
        """Return whether this thread is the one that has taken the session out."""
        with self._lock:
            if session not in self._sessions:
                return False
            self._sessions.discard(session)
            if self._kept.get(session.key) is session:
                del self._kept[session.key]
            return True

    def _depart(self, session: _KeptSession, reason: str) -> None:
        if self._forget(session):
            self._on_close(session.client, reason)

    def _end(self, session: Session, reason: str) -> None:
        """Close nothing that the program wants to keep."""
        request: Any = session.request
        if isinstance(request, HandlerSocket):
            request.outlive_children()
        if self._closing or getattr(request, "_closed", False) or not is_open(request):
            super()._end(session, reason)
            return
        self._keep(session.client, request, session.address)
        self._free(session)

    def release(self, request: Any) -> None:
        """Count the client of a kept request as departed, if the request has been closed."""
        with self._lock:
            session = self._kept.get(id(request))
        if session and session.is_closed:
            self._depart(session, HANDLER_ENDED)

    def release_closed(self) -> int:
        """Release all kept requests that have been closed; return the number of the others.

        For the program's own ways to close a request, which tell nobody.
        """
        with self._lock:
            sessions = list(self._kept.values())
        lost = {session.cookie for session in sessions if session.is_lost}
        found = elsewhere.find(lost) if lost else {}
        for sock in found.values():
            sock.close()
        for session in sessions:
            if session.is_closed or (session.is_lost and session.cookie not in found):
                self._depart(session, HANDLER_ENDED)
            elif session.is_lost:
                self._strays.remember(session.cookie)
        return len(self._kept)

    def close_all(self) -> int:
        """Close the clients of kept requests as well."""
        number = super().close_all()
        with self._lock:
            sessions = list(self._kept.values())
        for session in sessions:
            self._depart(session, DEADLINE)
        return number
