"""Drop-in replacements for the threading servers of `socketserver`, with graced's goodbye.

What a subclass may override is called as by `socketserver`, see docs/socketserver.md.  An I/O
thread has the place of the loop of `serve_forever`: it calls `get_request`, `verify_request` and
`process_request`, one request after the other.  The thread in `serve_forever` calls
`service_actions`, and so can end the server while a client hangs in `get_request`.

`socketserver.BaseServer` has two private attributes, a flag and an event, between the thread that
calls `shutdown` and the thread in `serve_forever`.  Both are properties here.  So it makes no
difference whether a program calls ``server.shutdown()`` or ``TCPServer.shutdown(server)``, or
whether another base class extends `shutdown`.

The classes are for programs to extend, so names that are ours alone begin with two underscores.

`serve_until_stopped` is new: `serve_forever` for the main thread of a program, which ends
gracefully on a signal.
"""

from __future__ import annotations

import errno
import logging  # noqa: F401  (for events, which may come when no descriptor is left to load it)
import math
import select
import socket
import socketserver
import time
from functools import partial
from threading import Event, RLock, current_thread
from typing import Any, Self
from weakref import WeakKeyDictionary

from graced.handlers.blocking import Blocking
from graced.handlers.function_kind import underlying
from graced.handlers.goodbye import as_bytes
from graced.handlers.handler_class import CheckedServer
from graced.handlers.handler_socket import HandlerSocket
from graced.handlers.handling import Handling
from graced.handlers.request_listener import RequestListener
from graced.handlers.request_pool import RequestPool
from graced.log import events
from graced.loop.admission import Admission
from graced.loop.io_thread import IOThread
from graced.loop.policy import Policy
from graced.loop.poller import MAX_POLL_TIMEOUT
from graced.server import Server
from graced.signals import IMPATIENT, STOP, SignalInbox
from graced.sockets.closing import linger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from threading import Thread

    from graced.handlers.request_listener import Arrival

UNLIMITED = 1_000_000
"""Clients."""
KEPT_INTERVAL = 0.1
"""Seconds in the drain between two looks at the requests that are kept by the program: a socket
that is closed by the program tells nobody."""


_NO_WAIT = Event()
_NO_WAIT.set()


class GracefulTCPServer(CheckedServer, socketserver.ThreadingTCPServer):
    """A `socketserver.ThreadingTCPServer` that says goodbye to its clients.

    When the server stops, a client gets the whole answer to its request, and is told then, at once
    if it is idle: by `farewell`, where the server class has one, and else by end of file, which the
    next read of its handler returns.  After `grace_period` seconds the rest is closed.  A handler
    can look at ``self.server.draining`` and ``self.server.deadline``.

    The constructor raises `TypeError` for a handler class that could not serve a stream, and for a
    subclass that is not for streams.

    ``with GracefulTCPServer(address, Handler) as server: server.serve_until_stopped()`` is a
    whole program.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 1024

    grace_period = 5.0
    """Seconds from `shutdown`, or the first signal, to the deadline."""
    farewell: bytes | None = None
    """Bytes that tell a client that the server is going offline; None or empty: nothing is sent
    that the handler has not said."""
    farewell_gap = 0.1
    """Seconds of silence around the farewell, which make the farewell a message of its own."""
    max_handler_threads = 4096
    """Handlers that run at once; further clients wait, with their data unread."""

    # Not in __init__, which a subclass may pass by: `xmlrpc.server` calls TCPServer.__init__.
    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self:
        self = super().__new__(cls)
        self.draining = Event()
        self.deadline = None
        self.__engine = None
        self.__engine_lock = RLock()
        self.__inbox = None
        self.__drain_began = 0.0
        self.__over = Event()
        self.__over.set()
        self.__serving = None
        self.__handling = Handling()
        self.__unfinished = []
        return self

    draining: Event
    """Set when the drain begins."""
    deadline: float | None
    """Monotonic time at which the remaining clients are closed; None before the drain."""
    __engine: Server | None
    __engine_lock: RLock
    """Held while the engine is used by another thread, or closed."""
    __inbox: SignalInbox | None
    __drain_began: float
    __over: Event
    """Set while `serve_forever` does not run."""
    __serving: Thread | None
    """The thread in `serve_forever`."""
    __handling: Handling
    __unfinished: list[Thread]
    """The threads for which `server_close` waits."""

    def serve_forever(self, poll_interval: float | None = 0.5) -> None:
        """Serve until `shutdown`, and say goodbye.

        `poll_interval`: seconds between two calls of `service_actions`, where a subclass overrides
        that method; nothing else is polled.  While another thread is in `serve_forever`, the
        method waits until that thread returns.  Raises `OSError` where the socket does not listen,
        and `TypeError` for a `farewell` that is neither bytes nor text.
        """
        with self.__engine_lock:
            serves = not self.__over.is_set()
            self.__over.clear()
        if serves:
            self.__wait_for_other()
            return
        self.__serving = current_thread()
        try:
            timeout = self.socket.gettimeout()
            if not self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise OSError(errno.EINVAL, "the socket of the server does not listen")
            self.socket.setblocking(False)
            try:
                self.__serve(poll_interval)
            finally:
                # The program may have closed the server in between.
                if self.socket.fileno() >= 0:
                    self.socket.settimeout(timeout)
        finally:
            self.__serving = None
            self.draining.clear()
            self.__over.set()

    def serve_until_stopped(self, poll_interval: float | None = 0.5) -> None:
        """Serve until SIGTERM, SIGHUP, SIGINT or SIGQUIT, or until `shutdown`, and say goodbye.

        The signal begins the drain: clients receive the farewell, and are served until no client
        remains, or until the grace period is over.  In the drain SIGINT and SIGQUIT end the grace
        period, SIGTERM and SIGHUP change nothing.  Each signal is logged.  A signal that is ignored
        (SIG_IGN: by the program, nohup(1), a shell without job control) stays ignored.

        Main thread only; `ValueError` is raised in another thread.  The signal handlers of the
        program for these four signals, and its `signal.set_wakeup_fd`, are replaced, and restored
        on return.  `poll_interval`: see `serve_forever`.

        Raises `RuntimeError` while another thread is in `serve_forever`.
        """
        if not self.__over.is_set():
            raise RuntimeError("another thread is in serve_forever of this server")
        with SignalInbox(STOP, interrupting=()) as inbox:
            self.__inbox = inbox
            try:
                self.serve_forever(poll_interval)
            finally:
                self.__inbox = None

    def __wait_for_other(self) -> None:
        if self.__waits_for(current_thread()):
            raise RuntimeError("serve_forever of this server waits for this thread")
        self.__over.wait()

    def __serve(self, poll_interval: float | None) -> None:
        engine = self.__engine = self.__build()
        try:
            if not self.draining.is_set():
                engine.start()
                self.__watch(engine, poll_interval)
        finally:
            stuck = engine.stop()
            if self.block_on_close and not self.daemon_threads and engine.pool:
                self.__unfinished += engine.pool.threads
            with self.__engine_lock:
                self.__engine = None
                engine.close()
        if self.__inbox:
            if stuck:
                events.HANDLERS_STUCK(handlers=stuck)
            events.STOPPED(
                seconds=time.monotonic() - self.__drain_began,
                clients_gone=engine.departed,
                clients_closed=engine.closed,
            )

    # `BaseServer.shutdown` sets the flag, and waits for the event.

    @property
    def _BaseServer__shutdown_request(self) -> bool:
        return self.draining.is_set()

    @_BaseServer__shutdown_request.setter
    def _BaseServer__shutdown_request(self, value: bool) -> None:
        if value:
            self.__drain()
        else:
            self.draining.clear()

    @property
    def _BaseServer__is_shut_down(self) -> Event:
        return _NO_WAIT if self.__waits_for(current_thread()) else self.__over

    @_BaseServer__is_shut_down.setter
    def _BaseServer__is_shut_down(self, _event: Event) -> None:
        """Keep the event of this class."""

    def shutdown(self) -> None:
        """Begin the drain, and return when `serve_forever` has returned.

        Any thread may call.  A thread for which `serve_forever` itself waits does not wait for
        `serve_forever`: in a handler, in `process_request` and in `service_actions` the method
        begins the drain and returns.  Where no thread is in `serve_forever`, the method returns at
        once, and so does the next call of `serve_forever`.
        """
        super().shutdown()

    def __waits_for(self, thread: Thread) -> bool:
        """Whether `serve_forever` cannot return before `thread`, the current one, goes on."""
        if thread is self.__serving or self.__handling.requests:
            return True
        engine, pool = self.__engine, self.__pool
        return (engine is not None and thread in engine.io_threads) or (
            pool is not None and thread in pool.threads
        )

    def __drain(self) -> None:
        """Begin the drain, unless the drain has begun."""
        with self.__engine_lock:
            if not self.draining.is_set():
                self.__drain_began = time.monotonic()
                self.deadline = self.__drain_began + self.grace_period
                self.draining.set()
                if engine := self.__engine:
                    engine.drain(self.deadline)

    # What a subclass may override, with the difference to `socketserver`.

    def get_request(self) -> tuple[Any, Any]:
        """Accept a connection."""
        request, address = super().get_request()
        return self.__own(request), address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Run `process_request_thread` in a thread, soon."""
        pool = self.__pool
        if not (pool and pool.run(request, client_address)):
            super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handle a request, and close its connection; the current thread is that of the handler."""
        with self.__handling.of(request):
            super().process_request_thread(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Handle a request."""
        with self.__handling.of(request):
            super().finish_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection; in the drain, after the client has had time to read the farewell."""
        # The I/O thread, which must not wait, closes the connections that were not verified.
        if self.draining.is_set() and not isinstance(current_thread(), IOThread):
            if isinstance(request, HandlerSocket):
                request.tell_at_end()
            if isinstance(request, socket.socket):
                linger(request)
        super().shutdown_request(request)

    def close_request(self, request: Any) -> None:
        """Close the descriptor of a connection."""
        super().close_request(request)
        if pool := self.__pool:
            pool.release(request)

    def server_close(self) -> None:
        """Close the listening socket; wait for handlers that are neither daemonic nor finished."""
        super().server_close()
        while self.__unfinished:
            self.__unfinished.pop().join()

    # How it works.

    @property
    def __pool(self) -> RequestPool | None:
        engine = self.__engine
        return engine.pool if engine else None  # type: ignore[return-value]

    def __own(self, request: Any) -> Any:
        pool = self.__pool
        return pool.own(request) if pool else request

    def __process(self, request: Any, client_address: Any) -> None:
        """Process a request that was verified, in the I/O thread."""
        try:
            pool = self.__pool if isinstance(self, socketserver.ForkingMixIn) else None
            if pool:
                # A thread waits for the child, which has the client; the parent closes its request.
                pool.run(request, client_address)
            else:
                self.process_request(request, client_address)
        except Exception:
            self.handle_error(request, client_address)
            self.shutdown_request(request)
        except BaseException:
            self.shutdown_request(request)
            raise

    def __build(self) -> Server:
        forks = isinstance(self, socketserver.ForkingMixIn)
        arrivals: WeakKeyDictionary[Any, Arrival] = WeakKeyDictionary()
        return Server(
            [RequestListener(self, self.__own, arrivals)],
            admission=Admission(UNLIMITED, 0),
            policy=Policy(
                as_bytes(self.farewell) or None,
                self.farewell_gap,
                stall_timeout=0.0,
                log_connections=False,
            ),
            blocking=Blocking(
                self.process_request if forks else self.process_request_thread,
                greet=getattr(underlying(self.RequestHandlerClass), "greets", True),
                max_threads=self.max_handler_threads,
                new_pool=partial(
                    RequestPool,
                    process=self.__process,
                    arrivals=arrivals,
                    daemon_threads=self.daemon_threads,
                ),
            ),
        )

    def __watch(self, engine: Server, poll_interval: float | None) -> None:
        action = getattr(self.service_actions, "__func__", None)
        overridden = action is not socketserver.BaseServer.service_actions
        interval = math.inf if poll_interval is None or not overridden else poll_interval
        pool = self.__pool
        assert pool
        poll = select.poll()
        poll.register(engine.changed_fd, select.POLLIN)
        if self.__inbox:
            poll.register(self.__inbox, select.POLLIN)
        while not engine.drained:
            remaining = math.inf if engine.deadline is None else engine.deadline - time.monotonic()
            if remaining <= 0 or self.__take_signals(engine):
                return
            if self.draining.is_set() and pool.release_closed():
                # The I/O thread may be busy with one of these requests.
                pool.say_goodbyes()
                remaining = min(remaining, KEPT_INTERVAL)
            poll.poll(min(remaining, interval, MAX_POLL_TIMEOUT) * 1000)
            engine.take_changes()
            if engine.failure:
                raise engine.failure
            if overridden:
                self.service_actions()

    def __take_signals(self, engine: Server) -> bool:
        """Obey the signals that have arrived; return whether the grace period is to end now."""
        for signum in self.__inbox.take() if self.__inbox else ():
            clients = engine.clients
            if not self.draining.is_set():
                events.SIGNAL(signal=signum.name, seconds=self.grace_period, clients_left=clients)
                self.__drain()
            elif signum in IMPATIENT:
                events.SIGNAL_IMPATIENT(signal=signum.name)
                return True
            else:
                events.SIGNAL_AGAIN(signal=signum.name)
        return False


class GracefulUnixStreamServer(GracefulTCPServer):
    """A `GracefulTCPServer` for Unix sockets, see `socketserver.ThreadingUnixStreamServer`."""

    address_family = socket.AF_UNIX
