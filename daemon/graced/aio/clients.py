"""The clients on a loop: from the I/O thread to the handler, and to the end of each.

The I/O thread has accepted the client, has counted it and has looked at the limits.  The transport
is asyncio's own, and so is all that happens for a message; here is what happens to a client once.
"""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import InvalidStateError
from contextvars import copy_context
from functools import partial
from threading import Lock

from graced.aio.event_loop import SESSION, EventLoop
from graced.aio.goodbye import Goodbye
from graced.aio.moving import Restoring, after_unsent, frozen
from graced.aio.session import Session
from graced.handlers.asynchronous import COROUTINE
from graced.log import events
from graced.log.event import summary_of
from graced.loop.connection_log import DEADLINE
from graced.sockets.closing import LINGER_TIMEOUT, end_one_way, is_at_its_end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from threading import Event
    from typing import Any

    from graced.handlers.registry import Handler
    from graced.loop.client import Client
    from graced.loop.policy import AtOnce
    from graced.loop.turns import Turns

HANDLER_FAILED = "handler failed"
STALL_LOOKS = 8
"""Looks at unsent bytes within `stall_timeout`."""
WIND_UP_INTERVAL = 0.002
"""Seconds between two looks at connections that are not closed yet, at the deadline."""
WIND_UP_TIMEOUT = 0.1
"""Seconds that coroutines have at the deadline to end after they were cancelled."""


class LoopClients:
    """The clients on one loop.  For the thread of the loop, except `add` and `present`."""

    def __init__(
        self,
        event_loop: EventLoop,
        handler: Handler,
        *,
        farewell: bytes | None,
        gap: float,
        stall_timeout: float,
        turns: Turns | AtOnce,
        deadline: Callable[[], float | None],
        on_close: Callable[[Client, str], None],
        on_restored: Callable[[], None],
    ) -> None:
        """The arguments are those of `graced.aio.pool.LoopPool`."""
        self._event_loop = event_loop
        self._loop = event_loop.loop
        self._handler = handler
        self._on_close = on_close
        self._stall_timeout = stall_timeout
        self._lock = Lock()
        self._sessions: set[Session] = set()
        self._sweeping = False
        self._closing = False
        self._loop.set_exception_handler(self._on_exception)
        self._lends = isinstance(self._loop, asyncio.SelectorEventLoop)
        """Whether the transports are asyncio's, see `graced.aio.session`."""
        self._goodbye = Goodbye(
            self._loop, farewell, handler.words, gap, turns, deadline=deadline, fail=self._fail
        )
        self.restoring = Restoring(event_loop, on_restored, self._open_soon)

    def add(self, client: Client) -> Session:
        """Count a client, which is given to `begin` next.  Any thread may call."""
        session = Session(client, self._event_loop.post, self._goodbye.tell)
        with self._lock:
            self._sessions.add(session)
        return session

    def present(self) -> list[Session]:
        """The sessions of all clients.  Any thread may ask."""
        with self._lock:
            return list(self._sessions)

    # From the accept to the handler.

    def begin(self, session: Session) -> None:
        """Serve a client."""
        if self._closing:
            self._goodbye.end(session)
            self._leave(session, DEADLINE)
        elif session.client.saved is not None:
            self.restoring.expect(session)
            self._open_soon(session)
        elif not self.restoring.holds(session):
            self._open_soon(session)
        if self._goodbye.draining:
            self._goodbye.watch(session)
        self._sweep_soon()

    def _open_soon(self, session: Session) -> None:
        if session.is_frozen:
            return
        session.context = copy_context()
        session.context.run(SESSION.set, session)
        session.opening = self._loop.create_task(self._open(session), context=session.context)

    async def _open(self, session: Session) -> None:
        """Make the transport, which calls `opened`."""
        if self._closing:
            # At the deadline, which has closed the client before its turn came.
            return
        try:
            sock = session.open(partial(self._closed, session), lend=self._lends)
        except OSError as error:
            self._leave(session, str(error.strerror))
            return
        try:
            await self._loop.connect_accepted_socket(partial(_Opening, self, session), sock)
        except Exception as error:
            self._fail(session, error)
            sock.close()
        except BaseException:
            sock.close()
            raise
        finally:
            session.opening = None
        if session.is_held and session.is_open:
            # Python 3.11 reads after `connection_made` whatever that has asked for.
            session.transport.resume_reading()
            session.transport.pause_reading()

    def opened(self, session: Session, transport: Any) -> None:
        """Give a new connection to its handler.  Called in the context of the client."""
        session.transport = transport
        unsent, session.client.unsent = session.client.unsent, b""
        try:
            with after_unsent(transport, unsent):
                if self._handler.asynchronous == COROUTINE:
                    self._start_coroutine(session)
                else:
                    self._start_protocol(session)
        except BaseException as error:
            self._fail(session, error)
        if session.client.saved is not None:
            session.client.saved = None
            if self.restoring.restored(session) and transport.is_reading():
                session.is_held = True
                transport.pause_reading()

    def _start_protocol(self, session: Session) -> None:
        transport, state = session.transport, session.client.saved
        protocol = session.protocol = self._handler.make()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if state is not None:
            protocol.restore(state)

    def _start_coroutine(self, session: Session) -> None:
        def connected(reader: Any, writer: Any) -> None:
            session.reader, session.writer = reader, writer
            session.task = self._loop.create_task(self._handler.make(reader, writer))
            session.task.add_done_callback(partial(self._returned, session))

        reader = asyncio.StreamReader(loop=self._loop)
        protocol = asyncio.StreamReaderProtocol(reader, connected, loop=self._loop)
        session.protocol = protocol
        session.transport.set_protocol(protocol)
        protocol.connection_made(session.transport)

    # Failures.

    def _fail(self, session: Session, error: BaseException) -> None:
        """Log an exception of the handler, and end its client."""
        self._log_failure(session, error)
        session.reason = session.reason or HANDLER_FAILED
        if session.transport:
            session.transport.abort()

    def _log_failure(self, session: Session, error: BaseException) -> None:
        if session.reason != HANDLER_FAILED:
            client = session.client
            events.HANDLER_FAILED(client=client, reason=summary_of(error), exc_info=error)

    def _on_exception(self, loop: Any, context: dict[str, Any]) -> None:
        """Log an exception that asyncio has caught.

        One of a transport ends the connection, and so does one that would end the process.
        """
        session, error = self._session_of(context), context.get("exception")
        if session is None or error is None or "future" in context or "task" in context:
            loop.default_exception_handler(context)
        elif "transport" in context or isinstance(error, SystemExit | KeyboardInterrupt):
            self._fail(session, error)
        else:
            self._log_failure(session, error)

    def _session_of(self, context: dict[str, Any]) -> Session | None:
        """The client of an exception that asyncio has caught."""
        if found := SESSION.get():
            return found
        # uvloop, and Python 3.11 for a timed call, are not in the context of the client here.
        inner = getattr(context.get("handle"), "_context", None)
        if inner is None:
            transport = context.get("transport")
            return transport and next(
                (each for each in self.present() if each.transport is transport), None
            )
        found = inner.get(SESSION)
        return found if isinstance(found, Session) else None

    def _returned(self, session: Session, task: asyncio.Task[Any]) -> None:
        """End the connection of a coroutine that has returned or failed."""
        error = None if task.cancelled() else task.exception()
        # No fault of the handler: the client has gone, or has left in the middle of its words.
        if error and not isinstance(error, ConnectionError | asyncio.IncompleteReadError):
            self._log_failure(session, error)
            session.reason = session.reason or HANDLER_FAILED
        if session.is_open:
            session.transport.close()
        else:
            self._finish(session)

    # The end of a connection.

    def _closed(self, session: Session) -> None:
        """End a connection of which the transport has closed its descriptor."""
        session.is_open = False
        if session.is_frozen:
            return
        session.reason = session.reason or session.found_reason()
        end_one_way(session.sock)
        if session.task is None or session.task.done():
            self._finish(session)

    def _finish(self, session: Session) -> None:
        """Close the connection, in the drain when the client has closed it."""
        if session.lingers:
            return
        is_parting = self._goodbye.draining or session.is_told
        if self._closing or not is_parting or is_at_its_end(session.sock):
            self._leave(session, session.reason)
            return
        session.lingers = True
        self._loop.add_reader(session.sock, self._discard_input, session)
        self._loop.call_later(LINGER_TIMEOUT, self._end_lingering, session)

    def _discard_input(self, session: Session) -> None:
        try:
            if session.sock.recv(65536):
                return
        except BlockingIOError:
            return
        except OSError:
            # The client has reset the connection.
            pass
        self._end_lingering(session)

    def _end_lingering(self, session: Session) -> None:
        if session.lingers:
            session.lingers = False
            self._loop.remove_reader(session.sock)
            self._leave(session, session.reason)

    def _leave(self, session: Session, reason: str) -> None:
        with self._lock:
            if session not in self._sessions:
                return
            self._sessions.discard(session)
        self._goodbye.forget(session)
        self.restoring.forget(session)
        session.close()
        self._on_close(session.client, reason)

    # Limits.

    def close_idle(self, session: Session, timeout: float) -> None:
        """Close a client that has been silent for `timeout` seconds."""
        if session.is_open and session.silence >= timeout:
            session.abort("idle")

    def _sweep_soon(self) -> None:
        if self._stall_timeout and not self._sweeping:
            self._sweeping = True
            self._loop.call_later(self._stall_timeout / STALL_LOOKS, self._close_stalled)

    def _close_stalled(self) -> None:
        self._sweeping = False
        for session in self.present():
            if session.is_open and session.stalls(self._stall_timeout):
                session.abort("stalled")
        if self._sessions:
            self._sweep_soon()

    # The handover.

    def count_busy(self) -> int:
        """The number of clients whose answer is under way."""
        return sum(
            bool(each.executing) or (each.works(math.inf) and not each.is_answered)
            for each in self.present()
            if each.is_open and each.transport
        )

    def freeze(self, begun: Event, taken: Future[list[Client]]) -> None:
        """Set `begun`, and take the clients from handlers that can move.

        They are the result of `taken`; where that is cancelled meanwhile, they are served again.
        """
        begun.set()
        self._freezing = self._loop.create_task(self._freeze(taken))

    async def _freeze(self, taken: Future[list[Client]]) -> None:
        if opening := [each.opening for each in self.present() if each.opening]:
            await asyncio.wait(opening)
        moved = []
        for session in self.present():
            if taken.cancelled():
                break
            if frozen(session, movable=self._handler.movable, log_failure=self._log_failure):
                with self._lock:
                    self._sessions.discard(session)
                moved.append(session.client)
        try:
            taken.set_result(moved)
        except InvalidStateError:
            for client in moved:
                self.begin(self.add(client))

    # The stop.

    def drain(self, last: float) -> None:
        """Say goodbye to each client when it is at rest, in its turn, until `last`."""
        self._goodbye.drain(self.present(), last)

    def close_all(self, told: Event) -> None:
        """End all connections, set `told`, and end the loop."""
        if self._closing:
            told.set()
            return
        self._closing = True
        for session in self.present():
            if session.lingers:
                self._end_lingering(session)
                continue
            session.reason = DEADLINE
            self._goodbye.end(session)
            if session.transport:
                session.transport.abort()
            if session.task:
                session.task.cancel()
            if not (session.is_open or session.task):
                self._leave(session, DEADLINE)
        told.set()
        self._winding_up = self._loop.create_task(self._wind_up())

    async def _wind_up(self) -> None:
        """Cancel what still runs, and end the loop."""
        until = self._loop.time() + WIND_UP_TIMEOUT
        running = asyncio.all_tasks() - {self._winding_up}
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=WIND_UP_TIMEOUT)
        # Transports tell their protocols of the end.
        while self.present() and self._loop.time() < until:
            await asyncio.sleep(WIND_UP_INTERVAL)
        self._event_loop.finish()


class _Opening(asyncio.Protocol):
    """The protocol of a transport until the handler of the client is there."""

    def __init__(self, clients: LoopClients, session: Session) -> None:
        self._clients = clients
        self._session = session

    def connection_made(self, transport: Any) -> None:
        self._clients.opened(self._session, transport)
