"""Clients that wait for a thread: all threads of handlers are in use, or none can be started.

Such a client is watched and not read.  A client that closes its connection is closed at once.  A
TCP client that has sent a request and end of file may have departed, or may wait for its answer:
the connection looks the same.  So the client is answered when its turn comes, but is not counted as
a client any more: it takes no place of `max_clients`, except in a drain, which waits for it.
"""

from __future__ import annotations

from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLRDHUP
from socket import MSG_PEEK

from graced.loop.phase import AWAITING_FIRST_BYTE, AWAITING_THREAD, GONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.loop.admission import Admission
    from graced.loop.client import Client
    from graced.loop.interfaces import Handlers
    from graced.loop.poller import Poller

RETRY_INTERVAL = 0.5
"""Seconds between two attempts to start a thread where the system refuses one."""
MAX_UNCOUNTED = 128
"""Clients that may wait without being counted; further clients with end of file are closed."""


class Waiting:
    """The clients of one I/O thread that wait for a thread, in the order of coming.

    For that thread alone, except `number`.
    """

    def __init__(
        self,
        poller: Poller,
        admission: Admission,
        handlers: Handlers,
        *,
        close: Callable[[Client, str], None],
        report_activity: Callable[[], None],
    ) -> None:
        """`close` and `report_activity`: see `graced.loop.clients.Clients`."""
        self._poller = poller
        self._admission = admission
        self._handlers = handlers
        self._close = close
        self._report_activity = report_activity
        self._draining = False
        self._queue: dict[Client, None] = {}
        self._uncounted = 0

    @property
    def number(self) -> int:
        """The number of clients that wait and are counted.  Any thread may read."""
        return len(self._queue) - self._uncounted

    def start_or_wait(self, client: Client) -> None:
        """Start the handler of a registered client, or let the client wait for its turn."""
        # A client of the last process had a thread there, and others may wait for its handler.
        if client.saved is not None or self._is_free():
            self._start(client)
            return
        self._poller.modify(client.sock.fileno(), EPOLLRDHUP)
        self._wait(client)
        self.start()

    def start_if_free(self, client: Client) -> None:
        """Start the handler of a registered client, unless all threads are in use."""
        if self._is_free():
            self._start(client)

    def _is_free(self) -> bool:
        """Whether a thread is free that no client waits for; it is reserved then.

        A thread may have become free this moment, and `start` has not been called yet.
        """
        return not self._queue and self._handlers.reserve()

    def start(self) -> None:
        """Start handlers: a thread may be free."""
        while self._queue and self._handlers.reserve():
            client = next(iter(self._queue))
            self.remove(client)
            if not self._start(client):
                return

    def retry(self, _client: Client) -> None:
        """Try again to start a thread, which the system has refused for this client."""
        self.start()

    def _start(self, client: Client) -> bool:
        """Start a handler; return False where the client has to wait."""
        self._poller.unregister(client.sock.fileno())
        client.phase = GONE
        if self._handlers.start(client):
            return True
        client.sock.setblocking(False)
        try:
            interest = EPOLLRDHUP if client.counted else 0
            self._poller.register(client.sock.fileno(), client, interest)
        except OSError as error:
            self._close(client, error.strerror or str(error))
            return False
        self._wait(client)
        self._poller.schedule_after(client, RETRY_INTERVAL)
        return False

    def _wait(self, client: Client) -> None:
        client.phase = AWAITING_THREAD
        self._queue[client] = None
        self._uncounted += not client.counted
        self._report_activity()

    def remove(self, client: Client) -> None:
        """Take a client out, if it waits."""
        if client in self._queue:
            del self._queue[client]
            client.due = 0.0
            self._uncounted -= not client.counted

    def drain(self) -> list[Client]:
        """Count the clients, which the drain waits for, and return them.

        A client that has to wait after this call stays counted.
        """
        self._draining = True
        for client in self._queue:
            self._count(client)
        return list(self._queue)

    def release(self, client: Client) -> None:
        """Let a client wait no more: it is read again."""
        self.remove(client)
        client.phase = AWAITING_FIRST_BYTE
        self._poller.modify(client.sock.fileno(), EPOLLIN)

    def _count(self, client: Client) -> None:
        if not client.counted and not self._admission.enter(client.host, adopted=True):
            client.counted = True
            self._uncounted -= 1

    def hear(self, client: Client, event: int) -> None:
        """Close a client that has departed."""
        if event & EPOLLERR:
            self._close(client, "reset by the client")
        elif event & EPOLLHUP or not self._has_input(client):
            self._close(client, "closed by the client")
        elif event & (EPOLLRDHUP | EPOLLIN):
            self._stop_counting(client)

    def _has_input(self, client: Client) -> bool:
        try:
            return bool(client.sock.recv(1, MSG_PEEK))
        except OSError:
            # Nothing but an error wakes a client that has sent neither a byte nor end of file.
            return False

    def _stop_counting(self, client: Client) -> None:
        if self._draining:
            self._poller.modify(client.sock.fileno(), 0)
        elif self._uncounted < MAX_UNCOUNTED:
            self._poller.modify(client.sock.fileno(), 0)
            client.counted = False
            self._uncounted += 1
            self._admission.leave(client.host)
            self._report_activity()
        else:
            self._close(client, "closed by the client")
