"""CPython's own tests of streams, with the transport of graced in place of asyncio's.

A program, since it replaces the loop for the whole process: `Loop` is asyncio's own, but for the
method that makes the transport of a socket.  That of graced is driven in the loop's thread, as its
I/O thread would drive it.  Needs `test.test_asyncio` (of Debian's libpython3-testsuite).

Run are the `CASES`, which get a transport in this way.  The tests of `OTHERS` cannot get one, and
`NEVER` says why.
"""

from __future__ import annotations

import asyncio
import asyncio.unix_events
import inspect
import sys
import threading
import unittest
from collections import Counter
from collections.abc import Iterator
from math import inf
from types import SimpleNamespace
from typing import Any

from graced.loop.admission import Admission
from graced.loop.io_thread import IOThread
from graced.loop.policy import Policy

PACKAGE = "test.test_asyncio."
CASES = (
    "test_buffered_proto.BufferedProtocolSelectorTests.test_buffered_proto_create_connection",
    "test_events.EPollEventLoopTests.test_connect_accepted_socket",
    "test_events.EPollEventLoopTests.test_create_server",
    "test_events.EPollEventLoopTests.test_create_server_dual_stack",
    "test_events.EPollEventLoopTests.test_create_unix_server",
    "test_server.SelectorStartServerTests.test_start_server_1",
    "test_server.SelectorStartServerTests.test_start_unix_server_1",
    "test_streams.StreamTests.test_async_writer_api",
    "test_streams.StreamTests.test_async_writer_api_exception_after_close",
    "test_streams.StreamTests.test_drain_raises",
    "test_streams.StreamTests.test_eof_feed_when_closing_writer",
    "test_streams.StreamTests.test_loop_is_closed_resource_warnings",
    "test_streams.StreamTests.test_open_connection",
    "test_streams.StreamTests.test_open_connection_error",
    "test_streams.StreamTests.test_open_unix_connection",
    "test_streams.StreamTests.test_open_unix_connection_error",
    "test_streams.StreamTests.test_start_server",
    "test_streams.StreamTests.test_start_unix_server",
    "test_streams.StreamTests.test_unclosed_resource_warnings",
    "test_streams.StreamTests.test_unhandled_exceptions",
    "test_streams.StreamTests.test_wait_closed_on_close",
    "test_streams.StreamTests.test_wait_closed_on_close_with_unread_data",
)
"""All of Python 3.11.7 that get the transport of a socket from a loop, but for four.

`test_start_tls`: there is no TLS.  `test_create_connection` and `test_create_unix_connection`: they
want an instance of `asyncio.Transport`.  `test_create_connection_local_addr`: it looks for a free
port and binds it later, when another test may have it."""
MISSING = 3
"""The most of them that another Python has not, or has by another name."""
OTHERS = ("test_selector_events", "test_sendfile", "test_transports", "test_protocols")
_PRIVATE = "calls private methods of asyncio's transport, with mocks for the loop and the socket"
NEVER = {
    "test_selector_events.SelectorTransportTests": _PRIVATE,
    "test_selector_events.SelectorSocketTransportTests": _PRIVATE,
    "test_selector_events.SelectorSocketTransportBufferedProtocolTests": _PRIVATE,
    "test_selector_events.SelectorDatagramTransportTests": "datagrams",
    "test_selector_events.BaseSelectorEventLoopTests": "the loop itself",
    "test_selector_events.TestSelectorUtils": "the loop itself",
    "test_sendfile.SelectEventLoopTests": "there is no sendfile",
    "test_sendfile.PollEventLoopTests": "there is no sendfile",
    "test_sendfile.EPollEventLoopTests": "there is no sendfile",
    "test_transports.TransportTests": "asyncio's base classes themselves",
    "test_protocols.ProtocolsAbsTests": "asyncio's base classes themselves",
}


class Known:
    """A transport as asyncio's server knows it: from Python 3.13 on, and by a weak reference."""

    def __init__(self, server: Any, transport: Any) -> None:
        self.server = server
        self.close, self.abort = transport.close, transport.abort

    def call(self, method: Any) -> None:
        method(*[self][: len(inspect.signature(method).parameters)])


class Loop(asyncio.SelectorEventLoop):
    """asyncio's loop with graced's transports."""

    made = 0
    """Transports, by all loops."""

    def __init__(self, selector: Any = None) -> None:
        super().__init__(selector)
        self._kind = SimpleNamespace(
            name="cpython", factory=None, movable=False, holds_back=False, words=None
        )
        policy = Policy(None, stall_timeout=0.0, log_connections=False)
        self._engine: Any = IOThread([], Admission(1000, 0), policy, streaming=self._kind)
        # Some Pythons wait after each test for threads, also for those that never run.
        threading._dangling.discard(self._engine)  # type: ignore[attr-defined]
        self._poller: Any = self._engine._poller
        self._timers = self._poller.timers
        self._schedule = self._timers.schedule
        self._timers.schedule = self._schedule_and_wake  # type: ignore[method-assign]
        self._wake: asyncio.Handle | None = None
        self._servers: dict[Any, Known] = {}
        self.add_reader(self._poller.epoll.fileno(), self._turn)

    def close(self) -> None:
        if not (self.is_closed() or self.is_running()):
            self.remove_reader(self._poller.epoll.fileno())
            for client in self._engine._clients.present():
                client.sock.close()
            self._engine.close()
        super().close()

    def _make_socket_transport(
        self, sock: Any, protocol: Any, waiter: Any = None, *, server: Any = None, **_more: Any
    ) -> Any:
        Loop.made += 1
        self._poller.now = self.time()
        transport = self._engine._clients.new(sock, "test", 0)
        self._engine._clients.admission.enter("test")
        if server:
            known = self._servers[transport] = Known(server, transport)
            known.call(server._attach)
        self.call_soon(self._connect, transport, protocol, waiter)
        return transport

    def _connect(self, transport: Any, protocol: Any, waiter: Any) -> None:
        self._kind.factory = lambda: protocol
        self._poller.register(transport.sock.fileno(), transport, transport.interest)
        self._engine._clients.streams.connect(transport)
        if waiter and not waiter.cancelled():
            waiter.set_result(None)

    # What `IOThread._serve` does.

    def _turn(self) -> None:
        self._poller.now = self.time()
        for fd, event in self._poller.epoll.poll(0):
            source = self._poller.sources[fd]
            self._engine._on_event[source.phase](source, event)
        self._run_timers()

    def _run_timers(self) -> None:
        self._poller.now = self.time()
        self._engine._run_timers()
        self._wake_at(self._timers.next)
        for transport in [each for each in self._servers if each.lost and not each.protocol]:
            known = self._servers.pop(transport)
            known.call(known.server._detach)

    def _schedule_and_wake(self, source: Any, when: float) -> None:
        self._schedule(source, when)
        self._wake_at(self._timers.next)

    def _wake_at(self, when: float) -> None:
        if self._wake:
            self._wake.cancel()
        self._wake = None
        if when <= self.time():
            self._wake = self.call_soon(self._run_timers)
        elif when < inf:
            self._wake = self.call_at(when, self._run_timers)


def cases(module: str) -> Iterator[unittest.TestCase]:
    """The tests of a module."""
    waiting: list[Any] = [unittest.defaultTestLoader.loadTestsFromName(PACKAGE + module)]
    while waiting:
        each = waiting.pop()
        if isinstance(each, unittest.TestCase):
            yield each
        else:
            waiting += each


def counts() -> Counter[str]:
    """How many tests there are to which each of the reasons applies."""
    found: Counter[str] = Counter()
    for module in OTHERS:
        for case in cases(module):
            name = case.id().removeprefix(PACKAGE).rpartition(".")[0]
            if "Proactor" not in name:
                found[NEVER[name]] += 1
    return found


def main() -> None:
    """Run the tests; the exit status says how that went."""
    print(counts())
    asyncio.SelectorEventLoop = Loop
    policy: Any = asyncio.unix_events._UnixDefaultEventLoopPolicy
    policy._loop_factory = Loop
    wanted = [case for each in {name.split(".")[0] for name in CASES} for case in cases(each)]
    suite = unittest.TestSuite(case for case in wanted if case.id().removeprefix(PACKAGE) in CASES)
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    enough = result.testsRun >= len(CASES) - MISSING and Loop.made >= result.testsRun
    sys.exit(not result.wasSuccessful() or not enough or bool(result.skipped))


if __name__ == "__main__":
    main()
