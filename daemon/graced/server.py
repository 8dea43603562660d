"""The server: I/O threads, and a pool of threads for blocking handlers, behind one interface.

The server knows nothing of signals, configuration or systemd: `graced.app.service` builds a program
on top, `graced.tcpserver` a library.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Event, Lock

from graced.errors import StartError, StuckError
from graced.loop.admission import Admission
from graced.loop.client import Client
from graced.loop.connection_log import DEADLINE, ConnectionLog, is_probe
from graced.loop.io_thread import IOThread
from graced.loop.liveness import Liveness
from graced.loop.policy import Policy, parts_until
from graced.threads import start_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence
    from typing import Any

    from graced.handlers.blocking import Blocking
    from graced.loop.interfaces import Listener, Mirror, Pool, Streaming, Watched
    from graced.loop.transfer import Transfer

IO_REPLY_TIMEOUT = 1.0
"""Seconds for the answer of an I/O thread to a request."""
STOP_TIMEOUT = 0.3
"""Seconds that `Server.stop` takes at most: with the rest of the exit half a second."""
FREEZE_TIMEOUT = 20.0
"""Seconds in which the I/O threads take their clients out.  An emulated processor needed one."""
SETTLE_LOOK = 0.25
"""Seconds that `settle` looks at handlers, to find out which are busy."""
HANDLER_FREEZE_TIMEOUT = 2.0
"""Seconds that handlers may take to reach a read, after `Server.settle` has found none busy."""


class Server:
    """Serves clients from `start` to `stop`.  Main thread only; any thread may read properties."""

    def __init__(
        self,
        listeners: Sequence[Listener],
        *,
        admission: Admission,
        policy: Policy,
        blocking: Blocking | None = None,
        streaming: Streaming | None = None,
        mirror: Mirror | None = None,
        on_restored: Callable[[], None] = lambda: None,
        io_threads: int = 1,
    ) -> None:
        """`on_restored` is called when the state of all handlers is back, before any goes on."""
        self.changed_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """An eventfd, readable when something has changed (see `take_changes`)."""
        self.server_address: Any = listeners[0].sock.getsockname() if listeners else None
        """The address of the first listener, by the name that `socketserver` gives to handlers."""
        self.addresses = [listener.name for listener in listeners]
        """The addresses that clients are accepted from, in the notation of the log."""
        self.draining = Event()
        """Set when the drain begins."""
        self.deadline: float | None = None
        """Monotonic time at which the remaining clients are closed; None before the drain."""
        self.admission = admission
        """The limits of clients, with what was counted of them."""
        self._mirror = mirror
        self._log = ConnectionLog(policy)
        self._streams = streaming is not None
        self._on_restored = on_restored
        self._echoed_by_handlers = self._departed_handlers = self._closed_handlers = 0
        self._count_lock = Lock()
        self._counted = self._activity_awaited = False
        self.pool: Pool | None = None
        if blocking:
            self.pool = blocking.new_pool(
                blocking.run,
                greet=blocking.greet,
                movable=blocking.movable,
                max_threads=blocking.max_threads,
                farewell=policy.farewell,
                gap=policy.gap,
                stall_timeout=policy.stall_timeout,
                turns=policy.new_turns(),
                on_close=self._leave,
                on_free=self._start_waiting,
                on_restored=on_restored,
            )
        self.io_threads = [
            IOThread(
                listeners,
                admission,
                policy,
                handlers=self.pool,
                streaming=streaming,
                mirror=mirror,
                changed=self._changed,
                shared=io_threads > 1,
                name=f"io-{number}",
            )
            for number in range(io_threads)
        ]
        watched: list[Watched] = [*self.io_threads]
        calling = watched if streaming else []
        if event_loop := self.pool and self.pool.event_loop:
            event_loop.changed = self._changed
            watched, calling = [*watched, event_loop], [event_loop]
        name = streaming.name if streaming else event_loop.handler if event_loop else ""
        self.liveness = Liveness(watched, calling, name)
        """Signs of life of the threads that must not wait."""

    def start(
        self, inherited: Sequence[Client] = (), begin: Callable[[], None] = lambda: None
    ) -> None:
        """Start the I/O threads, which serve `inherited` clients before new clients.

        Raises `StartError`; no client has been served then.  Calls `begin` when nothing can fail
        any more, before the first client is served.
        """
        decided, all_started = Event(), Event()

        def wait_for_the_others() -> None:
            decided.wait()
            if not all_started.is_set():
                raise StartError("another I/O thread cannot be started")

        try:
            for thread in self.io_threads:
                thread.post(wait_for_the_others)
                start_thread(thread)
            adopted = self._begin_to_adopt(inherited)
            begin()
            all_started.set()
        finally:
            decided.set()
        self._await_all(adopted)

    def listen(self, listeners: Sequence[Listener]) -> None:
        """Accept clients from further listeners.  After `start`."""
        if self.server_address is None and listeners:
            self.server_address = listeners[0].sock.getsockname()
        self.addresses += [listener.name for listener in listeners]
        for thread in self.io_threads:
            thread.listen(listeners)

    def unlisten(self, listener: Listener) -> bool:
        """Accept no more clients from a listener.  False: an I/O thread may use it yet."""
        done: SimpleQueue[None] = SimpleQueue()
        for thread in self.io_threads:
            thread.unlisten(listener, partial(done.put, None))
        if found := self._all_answer(done, IO_REPLY_TIMEOUT):
            self.addresses.remove(listener.name)
        return found

    def accept(self, *, again: bool) -> None:
        """Accept no more clients while the listeners stay open, or accept `again`."""
        for thread in self.io_threads:
            thread.accept(again=again)

    def settle(self) -> int:
        """Before `freeze`: let handlers that are busy save their state; all others go on.

        Return the number of handlers that are busy.  To be called again and again until it is 0.
        """
        return self.pool.settle(SETTLE_LOOK) if self.pool and self.pool.movable else 0

    def resume(self) -> None:
        """After `settle`: there will be no handover."""
        if self.pool:
            self._uncount(frozen := self.pool.thaw())
            self.adopt(frozen)

    def _uncount(self, moved: Sequence[Client]) -> None:
        for client in moved:
            if client.counted:
                self.admission.leave(client.host)
            client.counted = True

    def freeze(self) -> list[Client]:
        """Stop accepting and serving; return the clients, for `adopt` here or in another process.

        A client stays where its blocking handler cannot be moved.  Raises as `freeze_batch`.
        """
        return self.freeze_batch() + self.freeze_handlers()

    def freeze_handlers(self) -> list[Client]:
        """Take clients from the threads of handlers.  After `settle`; the other handlers go on."""
        self._uncount(moved := self.pool.freeze(HANDLER_FREEZE_TIMEOUT) if self.pool else [])
        return moved

    def freeze_batch(self, most: int | None = None, stay: Container[int] = ()) -> list[Client]:
        """Stop serving up to `most` clients of each I/O thread; serve all others, and accept.

        None has a handler's thread, or a descriptor in `stay`.  Without `most` all are frozen, and
        no listener is accepted from.  Raises `StuckError`; all clients then stay.
        """
        answers: SimpleQueue[None] = SimpleQueue()
        frozen_by: list[list[Client]] = [[] for _ in self.io_threads]

        def take(into: list[Client], transfer: Transfer) -> None:
            into += transfer.freeze(most, stay)
            answers.put(None)

        for thread, clients in zip(self.io_threads, frozen_by, strict=True):
            thread.freeze(partial(take, clients))
        if not self._all_answer(answers, FREEZE_TIMEOUT):
            # A thread that is late freezes its clients yet, and then finds this request.
            for thread, clients in zip(self.io_threads, frozen_by, strict=True):
                thread.adopt(clients, lambda: None)
            raise StuckError("an I/O thread does not answer")
        return [client for clients in frozen_by for client in clients]

    def adopt(self, clients: Sequence[Client]) -> None:
        """Serve clients that were frozen, here or in another process.

        Return when the I/O threads have taken the clients, or after `IO_REPLY_TIMEOUT`.
        """
        self._await_all(self._begin_to_adopt(clients))

    def _begin_to_adopt(self, clients: Sequence[Client]) -> SimpleQueue[None]:
        """Give clients to the I/O threads; the queue gets an item of each thread that has them."""
        done: SimpleQueue[None] = SimpleQueue()
        number = len(self.io_threads)
        restores = any(client.saved is not None for client in clients)
        if self.pool and restores:
            self.pool.restoring.begin()
        together = None
        if self._streams and restores:
            from graced.handlers.restoring import Together  # noqa: PLC0415

            together = Together(number, self._on_restored)

        def adopted() -> None:
            if together:
                together.go_on()
            done.put(None)

        for index, thread in enumerate(self.io_threads):
            thread.adopt(clients[index::number], adopted)
        return done

    def _await_all(self, done: SimpleQueue[None]) -> None:
        self._all_answer(done, IO_REPLY_TIMEOUT)
        if self.pool:
            self.pool.restoring.all_started()

    def _all_answer(self, answers: SimpleQueue[None], timeout: float) -> bool:
        """Whether each I/O thread puts an item into the queue, no later than `timeout` seconds."""
        with suppress(Empty):
            for _ in self.io_threads:
                answers.get(timeout=timeout)
            return True
        return False

    def _changed(self) -> None:
        os.eventfd_write(self.changed_fd, 1)

    def take_changes(self) -> None:
        """Make `changed_fd` unreadable until something changes again."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.changed_fd)

    @property
    def failure(self) -> BaseException | None:
        """The exception that has ended an I/O thread, if any."""
        return next((t.failure for t in self.io_threads if t.failure), None)

    def report_next_activity(self) -> None:
        """Make `changed_fd` readable once, when bytes are sent or a client comes or goes."""
        self._activity_awaited = True
        for thread in self.io_threads:
            thread.report_next_activity()

    # Counters.

    @property
    def clients(self) -> int:
        """The number of clients now."""
        return self.admission.clients

    @property
    def waiting(self) -> int:
        """The number of clients that wait for a thread in which their handler can run."""
        return sum(thread.waiting for thread in self.io_threads)

    @property
    def admitted(self) -> int:
        """The number of clients so far."""
        return self.admission.admitted

    @property
    def probes(self) -> int:
        """The number of clients so far that were not logged, as they had no byte."""
        return self.admission.probes

    @property
    def echoed(self) -> int:
        """The number of bytes sent to clients so far."""
        return self._echoed_by_handlers + sum(thread.echoed for thread in self.io_threads)

    @property
    def departed(self) -> int:
        """The number of clients that departed during the drain."""
        return self._departed_handlers + sum(thread.departed for thread in self.io_threads)

    @property
    def closed(self) -> int:
        """The number of clients that were closed at the deadline."""
        return self._closed_handlers + sum(thread.closed for thread in self.io_threads)

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Clients, bytes, probes and refusals so far, to be restored in the next process."""
        return self.admitted, self.echoed, self.probes, self.admission.refused

    def restore_counts(self, counts: tuple[int, int, int, int]) -> None:
        """Go on counting where another process has stopped."""
        self.admission.add(counts[0], *counts[2:])
        with self._count_lock:
            self._echoed_by_handlers += counts[1]

    # The end.

    def drain(self, deadline: float) -> None:
        """Begin the drain; `deadline` is the monotonic time of `stop`, which the caller keeps."""
        self.deadline = deadline
        self.draining.set()
        last = parts_until(deadline)
        for thread in self.io_threads:
            thread.drain(last)
        if self.pool:
            self.pool.drain(last)
        self._changed()

    @property
    def drained(self) -> bool:
        """Whether every I/O thread drains and no client remains."""
        return all(thread.draining for thread in self.io_threads) and not self.clients

    def stop(self) -> int:
        """Close the remaining clients and end the threads, within `STOP_TIMEOUT`.

        Return the number of handlers that did not end in that time.
        """
        until = time.monotonic() + STOP_TIMEOUT
        for thread in self.io_threads:
            thread.finish()
        if self.pool:
            self.pool.close_all()
        for thread in self.io_threads:
            if thread.ident:
                thread.join(max(0.0, until - time.monotonic()))
        stuck = self.pool.join(max(0.0, until - time.monotonic())) if self.pool else 0
        with self._count_lock:
            self._closed_handlers += stuck
            self._counted = True
        return stuck

    def close(self) -> None:
        """Close the descriptors, unless a thread is stuck: the thread may use them later."""
        if any(thread.is_alive() for thread in self.io_threads):
            return
        for thread in self.io_threads:
            thread.close()
        os.close(self.changed_fd)

    def _start_waiting(self) -> None:
        for thread in self.io_threads:
            thread.start_waiting()

    def _leave(self, client: Client, reason: str) -> None:
        """Count and log a client that has no handler any more.  The handler's thread calls."""
        if self._mirror:
            self._mirror.discard(client)
        if client.counted:
            self.admission.leave(client.host, probe=is_probe(client))
        with self._count_lock:
            self._echoed_by_handlers += client.echoed
        self._log.end(client, reason, time.monotonic())
        with self._count_lock:
            if reason == DEADLINE:
                # The main thread has stopped waiting, and `changed_fd` may be closed.
                if not self._counted:
                    self._closed_handlers += 1
                return
            if self.draining.is_set():
                self._departed_handlers += 1
        last = self.draining.is_set() and not self.admission.clients
        if last or self._activity_awaited:
            self._activity_awaited = False
            self._changed()
