"""The pool of threads for blocking handlers: one thread for each client, up to a limit."""

from __future__ import annotations

import time
from collections import deque
from math import inf
from threading import Condition, Lock, Thread, current_thread, get_ident

from graced.handlers.greeting import Greeting
from graced.handlers.handler_socket import FreezeInterrupt, HandlerSocket
from graced.handlers.restoring import Restoring
from graced.handlers.seldom import Seldom
from graced.handlers.session import HANDLER_ENDED, RESET, Session, new_session, peer_address
from graced.handlers.strays import Strays
from graced.log import events
from graced.loop.client import Client
from graced.loop.connection_log import DEADLINE
from graced.loop.policy import AtOnce
from graced.sockets.closing import discard, end_both_ways, end_one_way, linger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any

    from graced.loop.turns import Turns

    Run = Callable[[Any, Any], None]
    """Runs a handler to its end; the arguments are the request and the client's address, as in
    `socketserver`."""

LAST_WRITES_TIMEOUT = 0.2
"""Seconds that the answers of all handlers together may take to be complete at the deadline.

An answer is complete when the client has acknowledged it, for which a client may take 40 ms."""
_LAST_WRITES_INTERVAL = 0.005
"""Seconds between two looks at handlers that have not."""


class HandlerPool:
    """Runs handlers in threads.  Any thread may call."""

    daemon_threads = True
    """Whether the interpreter exits while a handler runs."""
    event_loop, sends_unsent = None, False  # Each handler has a thread.

    def __init__(
        self,
        run: Run,
        *,
        greet: bool | Greeting,
        max_threads: int,
        movable: bool,
        farewell: bytes | None,
        gap: float,
        stall_timeout: float,
        turns: Turns | AtOnce | None = None,
        on_close: Callable[[Client, str], None],
        on_free: Callable[[], None] = lambda: None,
        on_restored: Callable[[], None] = lambda: None,
    ) -> None:
        """Create a pool without threads.

        `greet`: whether handlers speak first.  `max_threads`: handlers that run at once; further
        clients wait, with their data unread.  `movable`: whether handlers can save their state and
        go on in another process.  `farewell`, `gap`, `stall_timeout`, `turns`: see
        `graced.loop.policy`.
        `on_close` is called in the handler's thread for each client that was closed, with the
        reason for the log; `on_free`, after a refusal of `reserve`, when a thread is free.
        `on_restored`: see `graced.handlers.restoring`.
        """
        self._greeting = greet if isinstance(greet, Greeting) else Greeting(bool(greet))
        self.movable = movable
        self._run = run
        self._max_threads = max_threads
        self._farewell = farewell
        self._gap = gap
        self._stall_timeout = stall_timeout
        self._on_close = on_close
        self._on_free = on_free
        self._lock = Lock()
        self._session_ended = Condition(self._lock)
        self._turns = turns or AtOnce()
        self._strays = Strays(gap)
        self.restoring = Restoring(on_restored)
        self._frozen: list[Client] = []
        self._waiting: deque[Session] = deque()
        self._sessions: set[Session] = set()
        self._threads: set[Thread] = set()
        self._starting = 0
        self._reserved = 0
        self._has_refused = False
        self._warning = Seldom()
        self._draining = False
        self._closing = False

    @property
    def greet(self) -> bool | None:
        """Whether handlers speak first; None: nobody knows yet."""
        return self._greeting.known

    def reserve(self) -> bool:
        """Reserve a thread for the next `start`; return False where all are in use."""
        with self._lock:
            if len(self._sessions) + self._reserved < self._max_threads:
                self._reserved += 1
                return True
            self._has_refused = True
        if self._warning.is_due():
            events.HANDLERS_BUSY(handlers=self._max_threads)
        return False

    def start(self, client: Client) -> bool:
        """Start a handler for `client`, which belongs to the pool from now on.

        Return False where no thread can be started: the client is the caller's again then.
        """
        session = self._enqueue(client, peer_address(client))
        try:
            self._start_thread(session)
        except RuntimeError as error:
            if self._warning.is_due():
                events.LIMITS(reason=f"no thread for a handler ({error}), its client waits")
            session.reclaim()
            return False
        return True

    def _enqueue(self, client: Client, address: Any) -> Session:
        session = new_session(client, address, self._farewell, self._gap, self._stall_timeout)
        if client.saved is not None:
            self.restoring.add(session)
        else:
            self._greeting.watch(session.request)
        with self._lock:
            self._reserved = max(0, self._reserved - 1)
            self._sessions.add(session)
            self._waiting.append(session)
            draining, closing = self._draining, self._closing
        if closing:
            session.tell_at_deadline()
            session.end()
        elif draining:
            self._begin_drain(self._turns.give([session]))
        return session

    def _start_thread(self, session: Session) -> None:
        """Start a thread for a session, unless enough are starting or the limit is reached.

        Raises `RuntimeError` where the system refuses a thread; nobody has the session then.
        """
        with self._lock:
            # A client of the last process had a thread there.
            full = len(self._threads) >= self._max_threads and session.client.saved is None
            if full or len(self._waiting) <= self._starting:
                return
            name = f"handler {session.client}"
            thread = Thread(target=self._work, name=name, daemon=self.daemon_threads)
            self._threads.add(thread)
            self._starting += 1
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                self._threads.discard(thread)
                self._starting -= 1
                if session not in self._waiting:
                    return
                self._waiting.remove(session)
                self._sessions.discard(session)
                self._has_refused = True
            self.restoring.discard(session)
            raise

    def drain(self, last: float = inf) -> None:
        """Say goodbye to the clients that are at rest, to each in its turn, until `last`.

        The caller then calls `say_goodbyes` after the gap, and again and again.
        """
        self._turns.begin(last)
        with self._lock:
            self._draining = True
        self._begin_drain(self._turns.give(self.present()))
        self.say_goodbyes()

    def _begin_drain(self, sessions: Collection[Session]) -> None:
        for session in sessions:
            if session.ours:
                session.ours.begin_drain()

    def present(self) -> list[Session]:
        """The sessions of all clients."""
        with self._lock:
            return list(self._sessions)

    def say_goodbyes(self) -> float:
        """Say goodbye to the clients that are at rest now.

        Return the seconds after which another may be at rest; infinite: none is left.
        """
        self._begin_drain(self._turns.take())
        ours = [each.ours for each in self.present() if each.ours and each not in self._turns]
        waits = [each.say_goodbye() for each in ours]
        next_turn = self._turns.next - time.monotonic()
        return min([self._strays.say_goodbyes(ours), next_turn, *filter(None, waits)])

    def close_idle(self, timeout: float) -> float:
        """Close the clients that have been silent for `timeout` seconds.

        Return the seconds of the longest silence among the other clients.
        """
        longest = 0.0
        for session in self.present():
            request = session.request
            # Without a thread it is the server that is silent.
            if isinstance(request, HandlerSocket) and session.thread:
                silence = request.silence
                if silence >= timeout and not session.is_unanswered:
                    end_both_ways(request)
                else:
                    longest = max(longest, silence)
        return longest

    def settle(self, timeout: float) -> int:
        """Let each handler that is busy save its state at its next read; return their number.

        All other handlers go on.  Looks at the handlers for `timeout` seconds; a handler that was
        not looked at counts as busy.
        """
        self._greeting.give_up()
        until = time.monotonic() + timeout
        busy = 0
        for session in self.present():
            late = time.monotonic() >= until
            if late or session.is_busy:
                busy += 1
                if not late:
                    self._freeze([session])
        return busy

    def freeze(self, timeout: float) -> list[Client]:
        """Start no more handlers, freeze handlers that are movable, and return their clients.

        `timeout`: seconds within which a handler has to reach a read; otherwise its client remains.
        """
        with self._lock:
            self._frozen += [session.reclaim() for session in self._waiting]
            self._sessions.difference_update(self._waiting)
            self._waiting.clear()
            # Waiting for these is over: `settle` has waited.
            busy = {each for each in self._sessions if each.is_frozen or each.is_told}
        if self.movable:
            self._freeze(self._sessions - busy)
            with self._lock:
                self._session_ended.wait_for(lambda: self._sessions <= busy, timeout)
        return self.thaw()

    def _freeze(self, sessions: Collection[Session]) -> None:
        for session in sessions:
            session.freeze()
        with self._lock:
            try:
                for session in self._sessions.intersection(sessions):
                    session.nudge()
            except OSError as error:
                events.LIMITS(reason=f"handlers cannot be woken for the handover: {error.strerror}")

    def thaw(self) -> list[Client]:
        """Let handlers that have not saved their state go on; return the clients of the others."""
        with self._lock:
            for session in self._sessions:
                session.thaw()
            frozen, self._frozen = self._frozen, []
            return frozen

    def close_all(self) -> int:
        """End the connections of all clients, and return the number of clients."""
        with self._lock:
            self._closing = True
            sessions = list(self._sessions)
        until = time.monotonic() + LAST_WRITES_TIMEOUT
        pending = [each for each in sessions if not each.tell_at_deadline()]
        while pending and time.monotonic() < until:
            time.sleep(_LAST_WRITES_INTERVAL)
            pending = [each for each in pending if not each.tell_at_deadline()]
        for session in sessions:
            session.end()
        self._strays.end(each.ours for each in sessions if each.ours)
        return len(sessions)

    def join(self, timeout: float) -> int:
        """Wait for the handlers, for `timeout` seconds in all; return the number still running."""
        deadline = time.monotonic() + timeout
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return len(self.threads)

    @property
    def threads(self) -> list[Thread]:
        """The threads in which handlers run; one that is just being started is none of them."""
        with self._lock:
            return [thread for thread in self._threads if thread.is_alive()]

    def _work(self) -> None:
        with self._lock:
            self._starting -= 1
        while session := self._next_session():
            self._run_session(session)

    def _next_session(self) -> Session | None:
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

    def _run_session(self, session: Session) -> None:
        client, request = session.client, session.request
        reason = HANDLER_ENDED
        try:
            if isinstance(request, HandlerSocket):
                request.lineage.watch()
            if client.saved is None:
                self.restoring.wait()
            self._run(request, session.address)
        except FreezeInterrupt:
            # Of a handler that had not restored its state yet, or that read in `setup`.
            reason = HANDLER_ENDED
        except ConnectionError:
            # No fault of the handler: the client has reset the connection.
            reason = RESET
        except BaseException as error:
            reason = session.failed(
                error, stalls=bool(self._stall_timeout), draining=self._draining
            )
        finally:
            self._end(session, reason)

    def _is_reclaimed(self, session: Session) -> bool:
        """Take the client back, if its handler has saved its state."""
        with self._lock:
            if not session.is_saved:
                return False
            late = not session.is_frozen
            client = session.reclaim()
            if not late:
                self._frozen.append(client)
        self._free(session)
        if late:
            # The handover has given up waiting a moment ago.  This thread serves the client.
            self._enqueue(client, session.address)
        return True

    def _end(self, session: Session, reason: str) -> None:
        if reason == HANDLER_ENDED and self._is_reclaimed(session):
            return
        request = session.request
        if isinstance(request, HandlerSocket):
            request.outlive_children()
            if request.detached:
                self._strays.remember(request.gone)
        if self._closing:
            reason = DEADLINE
            discard(request)
        elif self._draining or session.is_parting or session.thaw():
            # The words of a handler that has failed may end in the middle.
            if isinstance(request, HandlerSocket) and reason == HANDLER_ENDED:
                request.tell_at_end()
            linger(request)
        else:
            # As in `socketserver`: a copy of the descriptor would delay the end of file.
            end_one_way(request)
        self._close(session, reason)

    def _close(self, session: Session, reason: str) -> None:
        self._free(session)
        try:
            session.request.close()
        finally:
            if request := session.ours:
                # Not before: to close means to ask the kernel for the number anyway.
                session.client.echoed += request.written
            self._on_close(session.client, session.fate or reason)

    def _free(self, session: Session) -> None:
        """Count a session no more: its thread is free."""
        self.restoring.discard(session)
        self._turns.discard(session)
        with self._lock:
            self._sessions.discard(session)
            self._session_ended.notify()
            awaited = self._has_refused and not self._closing
            self._has_refused = False
        if awaited:
            self._on_free()
