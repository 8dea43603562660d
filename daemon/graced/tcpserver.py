"""Drop-in replacements for the threading servers of `socketserver`, with graced's goodbye.

Everything that `socketserver` lets a subclass override is called when and as it is there; only
the loop of `serve_forever` and what `shutdown` does are ours.
"""

from __future__ import annotations

import errno
import logging  # noqa: F401  (events go there, maybe when no descriptor is left to load it)
import math
import select
import socket
import socketserver
import time
from threading import Event, Lock, current_thread
from typing import Any

from graced.handlers.handler_socket import HandlerSocket
from graced.loop.admission import Admission
from graced.loop.io_thread import IOThread
from graced.loop.policy import Policy
from graced.loop.poller import MAX_POLL_TIMEOUT
from graced.server import Blocking, Server
from graced.sockets.closing import linger
from graced.sockets.listener import display

UNLIMITED = 1_000_000


class _OwnListener:
    """A listening socket whose clients come in by the overridable methods of its server."""

    passed = False
    fallible = True

    def __init__(self, server: socketserver.TCPServer) -> None:
        self._server = server
        self.sock = server.socket
        self.name = display(server.server_address)

    def shut(self) -> None:
        """Nothing: the socket is its owner's, who may serve again."""

    def accept(self) -> tuple[socket.socket, Any]:
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
    """A `socketserver.ThreadingTCPServer` whose `shutdown` says goodbye.

    Every client, idle ones too, is told `farewell` and has `grace_period` seconds to leave.
    A handler finds the `draining` event and the `deadline` at its ``self.server``; after the
    deadline its socket is at end of file.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 1024

    grace_period = 5.0
    """Seconds that `shutdown` gives the clients."""
    farewell = b"SHUTDOWN"
    """What they are told; empty: nothing."""
    farewell_gap = 0.1
    """Seconds of silence around the farewell, which make it a message of its own."""
    max_handler_threads = 4096
    """Clients beyond wait for a thread, with their data unread."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.draining = Event()
        """Set by `shutdown`."""
        self.deadline: float | None = None
        """Monotonic time at which the clients are closed; None before `shutdown`."""
        self._engine: Server | None = None
        self._ending = Lock()
        """Held by who uses the engine or gives it up."""
        self._over = Event()
        self._over.set()
        super().__init__(*args, **kwargs)

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Serve until `shutdown`.

        `poll_interval`: seconds between two calls of `service_actions`, where a subclass has one.
        Nothing else is polled for.
        """
        self._over.clear()
        try:
            self.socket.setblocking(False)
            self._serve(poll_interval)
        finally:
            self.draining.clear()
            self._over.set()

    def _serve(self, poll_interval: float) -> None:
        engine = self._engine = self._build()
        try:
            if not self.draining.is_set():
                engine.start()
                self._watch(engine, poll_interval)
        finally:
            engine.stop()
            with self._ending:
                self._engine = None
                engine.close()
            self.socket.setblocking(True)

    def shutdown(self) -> None:
        """Say goodbye, and return when `serve_forever` is over.

        Any thread may call but the one in `serve_forever`.  If nobody is in it the next call
        of it returns at once.
        """
        with self._ending:
            if not self.draining.is_set():
                self.deadline = time.monotonic() + self.grace_period
                self.draining.set()
                if engine := self._engine:
                    engine.drain(self.deadline)
        self._over.wait()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle one request.  In `serve_forever` it already has a thread of its own."""
        if self._engine:
            self.process_request_thread(request, client_address)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End one request; in the drain, when the client has had time to read its farewell."""
        # Those that were not verified are closed by the thread that others wait for.
        if self.draining.is_set() and not isinstance(current_thread(), IOThread):
            if isinstance(request, HandlerSocket):
                request.part()
            linger(request)
        super().shutdown_request(request)

    def _build(self) -> Server:
        return Server(
            [_OwnListener(self)],
            admission=Admission(UNLIMITED, 0),
            policy=Policy(
                self.farewell, self.farewell_gap, stall_timeout=0.0, log_connections=False
            ),
            blocking=Blocking(
                self.process_request,
                greet=getattr(self.RequestHandlerClass, "greets", True),
                max_threads=self.max_handler_threads,
            ),
        )

    def _watch(self, engine: Server, poll_interval: float) -> None:
        theirs = type(self).service_actions is not socketserver.BaseServer.service_actions
        interval = poll_interval if theirs else math.inf
        poll = select.poll()
        poll.register(engine.changed_fd, select.POLLIN)
        while not engine.drained:
            left = math.inf if engine.deadline is None else engine.deadline - time.monotonic()
            if left <= 0:
                return
            timeout = min(left, interval, MAX_POLL_TIMEOUT)
            poll.poll(timeout * 1000)
            engine.take_changes()
            if engine.failure:
                raise engine.failure
            if theirs:
                self.service_actions()


class GracefulUnixStreamServer(GracefulTCPServer):
    """The same for Unix stream sockets, as `socketserver.ThreadingUnixStreamServer`."""

    address_family = socket.AF_UNIX
