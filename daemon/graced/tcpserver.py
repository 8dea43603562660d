"""Drop-in replacements for the threading servers of `socketserver`, with graced's goodbye.

Each method that a subclass of a `socketserver` class may override is called in the same order and
with the same arguments as there.  `get_request` and `verify_request` run in the I/O thread, and
must not wait; `process_request` and all that it calls run in the handler's thread.  Only the loop
of `serve_forever` and the work of `shutdown` are different.  `serve_until_stopped` is new:
`serve_forever` for the main thread of a program, which ends gracefully on a signal.
"""

from __future__ import annotations

import errno
import logging  # noqa: F401  (for events, which may come when no descriptor is left to load it)
import math
import select
import socket
import socketserver
import time
from threading import Event, Lock, current_thread
from typing import Any

from graced.handlers.handler_socket import HandlerSocket
from graced.log import events
from graced.loop.admission import Admission
from graced.loop.io_thread import IOThread
from graced.loop.policy import Policy
from graced.loop.poller import MAX_POLL_TIMEOUT
from graced.server import Blocking, Server
from graced.signals import IMPATIENT, STOP, SignalInbox
from graced.sockets.address import format_address
from graced.sockets.closing import linger

UNLIMITED = 1_000_000
"""Clients."""


class _OwnListener:
    """The listening socket of a server, whose overridable methods accept the clients."""

    passed = False
    fallible = True

    def __init__(self, server: socketserver.TCPServer) -> None:
        self._server = server
        self.sock = server.socket
        self.name = format_address(server.server_address)

    def refuse_connections(self) -> float:
        """Do nothing: the program owns the socket, and may serve again."""
        return 0.0

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept and verify a client.  Raises `OSError`."""
        server = self._server
        request: Any
        request, address = server.get_request()
        try:
            if server.verify_request(request, address):
                return request, address
        except Exception:
            server.handle_error(request, address)
        server.shutdown_request(request)
        raise ConnectionAbortedError(errno.ECONNABORTED, "turned down by verify_request")


class GracefulTCPServer(socketserver.ThreadingTCPServer):
    """A `socketserver.ThreadingTCPServer` that says goodbye to its clients.

    When the server stops, a client gets the whole answer to its request, and is told then, at once
    if it is idle: by `farewell`, where the server class has one, and else by end of file, which the
    next read of its handler returns.  After `grace_period` seconds the rest is closed.  A handler
    can look at ``self.server.draining`` and ``self.server.deadline``.

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

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.draining = Event()
        """Set when the drain begins."""
        self.deadline: float | None = None
        """Monotonic time at which the remaining clients are closed; None before the drain."""
        self._engine: Server | None = None
        self._engine_lock = Lock()
        """Held while the engine is used by another thread, or closed."""
        self._inbox: SignalInbox | None = None
        self._drain_began = 0.0
        self._over = Event()
        """Set while `serve_forever` does not run."""
        self._over.set()
        super().__init__(*args, **kwargs)

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Serve until `shutdown`, and say goodbye.

        `poll_interval`: seconds between two calls of `service_actions`, where a subclass overrides
        that method; nothing else is polled.
        """
        self._over.clear()
        try:
            self.socket.setblocking(False)
            self._serve(poll_interval)
        finally:
            self.draining.clear()
            self._over.set()

    def serve_until_stopped(self, poll_interval: float = 0.5) -> None:
        """Serve until SIGTERM, SIGHUP, SIGINT or SIGQUIT, or until `shutdown`, and say goodbye.

        The signal begins the drain: clients receive the farewell, and are served until no client
        remains, or until the grace period is over.  In the drain SIGINT and SIGQUIT end the grace
        period, SIGTERM and SIGHUP change nothing.  Each signal is logged.  A signal that is ignored
        (SIG_IGN: by the program, nohup(1), a shell without job control) stays ignored.

        Main thread only; `ValueError` is raised in another thread.  The signal handlers of the
        program are restored on return.  `poll_interval`: see `serve_forever`.
        """
        with SignalInbox(STOP) as inbox:
            self._inbox = inbox
            try:
                self.serve_forever(poll_interval)
            finally:
                self._inbox = None

    def _serve(self, poll_interval: float) -> None:
        engine = self._engine = self._build()
        try:
            if not self.draining.is_set():
                engine.start()
                self._watch(engine, poll_interval)
        finally:
            stuck = engine.stop()
            with self._engine_lock:
                self._engine = None
                engine.close()
            self.socket.setblocking(True)
        if self._inbox:
            if stuck:
                events.HANDLERS_STUCK(handlers=stuck)
            events.STOPPED(
                seconds=time.monotonic() - self._drain_began,
                clients_gone=engine.departed,
                clients_closed=engine.closed,
            )

    def shutdown(self) -> None:
        """Begin the drain, and return when `serve_forever` has returned.

        Any thread may call, except the thread in `serve_forever`.  Where no thread is in
        `serve_forever`, the next call of `serve_forever` returns at once.
        """
        self._drain()
        self._over.wait()

    def _drain(self) -> None:
        """Begin the drain, unless the drain has begun."""
        with self._engine_lock:
            if not self.draining.is_set():
                self._drain_began = time.monotonic()
                self.deadline = self._drain_began + self.grace_period
                self.draining.set()
                if engine := self._engine:
                    engine.drain(self.deadline)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle one request; in `serve_forever` the calling thread is that of the handler."""
        if self._engine:
            self.process_request_thread(request, client_address)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection; in the drain, after the client has had time to read the farewell."""
        # The I/O thread, which must not wait, closes the connections that were not verified.
        if self.draining.is_set() and not isinstance(current_thread(), IOThread):
            if isinstance(request, HandlerSocket):
                request.tell_at_end()
            linger(request)
        super().shutdown_request(request)

    def _build(self) -> Server:
        return Server(
            [_OwnListener(self)],
            admission=Admission(UNLIMITED, 0),
            policy=Policy(
                self.farewell or None, self.farewell_gap, stall_timeout=0.0, log_connections=False
            ),
            blocking=Blocking(
                self.process_request,
                greet=getattr(self.RequestHandlerClass, "greets", True),
                max_threads=self.max_handler_threads,
            ),
        )

    def _watch(self, engine: Server, poll_interval: float) -> None:
        overridden = type(self).service_actions is not socketserver.BaseServer.service_actions
        interval = poll_interval if overridden else math.inf
        poll = select.poll()
        poll.register(engine.changed_fd, select.POLLIN)
        if self._inbox:
            poll.register(self._inbox, select.POLLIN)
        while not engine.drained:
            remaining = math.inf if engine.deadline is None else engine.deadline - time.monotonic()
            if remaining <= 0 or self._take_signals(engine):
                return
            poll.poll(min(remaining, interval, MAX_POLL_TIMEOUT) * 1000)
            engine.take_changes()
            if engine.failure:
                raise engine.failure
            if overridden:
                self.service_actions()

    def _take_signals(self, engine: Server) -> bool:
        """Obey the signals that have arrived; return whether the grace period is to end now."""
        for signum in self._inbox.take() if self._inbox else ():
            clients = engine.clients
            if not self.draining.is_set():
                events.SIGNAL(signal=signum.name, seconds=self.grace_period, clients_left=clients)
                self._drain()
            elif signum in IMPATIENT:
                events.SIGNAL_IMPATIENT(signal=signum.name)
                return True
            else:
                events.SIGNAL_AGAIN(signal=signum.name)
        return False


class GracefulUnixStreamServer(GracefulTCPServer):
    """A `GracefulTCPServer` for Unix sockets, see `socketserver.ThreadingUnixStreamServer`."""

    address_family = socket.AF_UNIX
