"""asyncio handlers as the server has them: all on one loop, in a thread of its own.

This class has the methods of `graced.handlers.pool.HandlerPool`.  What they do is done in the loop,
by `graced.aio.clients`; `graced.aio.goodbye` has the stop, `graced.aio.moving` the handover.
"""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from math import inf
from threading import Event, Thread

from graced.aio.clients import LoopClients
from graced.aio.event_loop import EventLoop
from graced.loop.policy import AtOnce
from graced.sockets.closing import end_both_ways

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from graced.aio.session import Session
    from graced.handlers.registry import Handler
    from graced.loop.client import Client
    from graced.loop.turns import Turns

SAVE_TIMEOUT = 5.0
"""Seconds that all handlers together may take to save their state, once they have begun."""
TELL_TIMEOUT = 0.15
"""Seconds that the loop has at the deadline to begin the end of each connection."""


class LoopPool:
    """Clients on one loop.  Any thread but that of the loop may call."""

    greet = True
    """A handler starts at the accept: it may speak first."""
    sends_unsent = True
    """The transport of a client sends what another process has not sent."""

    def __init__(
        self,
        _run: object,
        *,
        handler: Handler,
        make_loop: Callable[[], asyncio.AbstractEventLoop],
        deadline: Callable[[], float | None],
        farewell: bytes | None,
        gap: float,
        stall_timeout: float,
        on_close: Callable[[Client, str], None],
        on_restored: Callable[[], None] = lambda: None,
        turns: Turns | AtOnce | None = None,
        movable: bool = False,
        **_of_threads: object,
    ) -> None:
        """Start the loop.  Raises `StartError`, and `OSError` where there is no epoll set left.

        `deadline` returns the monotonic time of `close_all`, in the drain.  The arguments after it
        are those of `HandlerPool`.
        """
        self.movable = movable
        self.event_loop = EventLoop(make_loop(), handler.name)
        self._clients = LoopClients(
            self.event_loop,
            handler,
            farewell=farewell,
            gap=gap,
            stall_timeout=stall_timeout,
            turns=turns or AtOnce(),
            deadline=deadline,
            on_close=on_close,
            on_restored=on_restored,
        )
        self.restoring = self._clients.restoring
        self.event_loop.begin()

    @property
    def threads(self) -> list[Thread]:
        """The thread of the loop, while it runs."""
        return [self.event_loop] if self.event_loop.is_alive() else []

    def present(self) -> list[Session]:
        """The sessions of all clients."""
        return self._clients.present()

    # From the I/O thread.

    def reserve(self) -> bool:
        """A loop is never full."""
        return True

    def start(self, client: Client) -> bool:
        """Serve a client, which belongs to the loop from now on."""
        session = self._clients.add(client)
        self.event_loop.post(partial(self._clients.begin, session))
        return True

    def say_goodbyes(self) -> float:
        """The loop does it: no other look is needed."""
        return inf

    def close_idle(self, timeout: float) -> float:
        """Close clients that have been silent for `timeout` seconds.

        Return the seconds of the longest silence among the other clients.
        """
        longest = 0.0
        for session in self._clients.present():
            silence = session.silence
            if silence >= timeout:
                self.event_loop.post(partial(self._clients.close_idle, session, timeout))
            else:
                longest = max(longest, silence)
        return longest

    # The handover.

    def settle(self, timeout: float) -> int:
        """The number of clients whose answer is under way; all, where the loop does not say."""
        try:
            return int(self.event_loop.call(self._clients.count_busy, timeout))
        except TimeoutError:
            return len(self._clients.present())

    def freeze(self, timeout: float) -> list[Client]:
        """Take the clients from handlers that can move; return them.

        The others remain: all of them, where the loop does not answer for `timeout` seconds, or
        the handlers take more than `SAVE_TIMEOUT` to save their state.
        """
        begun = Event()
        taken: Future[list[Client]] = Future()
        self.event_loop.post(partial(self._clients.freeze, begun, taken))
        try:
            return taken.result(SAVE_TIMEOUT if begun.wait(timeout) else 0.0)
        except TimeoutError:
            # False where the clients have come in this moment.
            return [] if taken.cancel() else taken.result()

    def thaw(self) -> list[Client]:
        """The clients that were frozen and not returned: none."""
        return []

    # The stop.

    def drain(self, last: float = inf) -> None:
        """Say goodbye to each client when it is at rest, in its turn, until `last`."""
        self.event_loop.post(partial(self._clients.drain, last))

    def close_all(self) -> int:
        """End the connections of all clients, and return the number of clients."""
        sessions = self._clients.present()
        told = Event()
        self.event_loop.post(partial(self._clients.close_all, told))
        if not told.wait(TELL_TIMEOUT):
            # A callback holds up the loop.
            for session in self._clients.present():
                end_both_ways(session.sock)
        return len(sessions)

    def join(self, timeout: float) -> int:
        """Wait for the loop, for `timeout` seconds; return the number of clients that remain."""
        self.event_loop.join(timeout)
        return len(self._clients.present())
