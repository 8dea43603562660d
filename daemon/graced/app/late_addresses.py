"""Host names that could not be resolved at the start: tried again until the service ends.

A device may start before its network, or without its name server.  The service serves the other
addresses meanwhile.  A thread of its own asks the resolver, which may take as long as it likes; the
pace begins with a second and doubles up to `LONGEST_PAUSE`.
"""

from __future__ import annotations

from queue import SimpleQueue
from threading import Event, Thread

from graced.errors import GracedError
from graced.log import events
from graced.sockets.binding import bind_late

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from graced.sockets.accepted import KeepAlive
    from graced.sockets.address import Address
    from graced.sockets.listener import Listener

FIRST_PAUSE = 1.0
"""Seconds between the first two tries."""
LONGEST_PAUSE = 60.0
"""Seconds between two tries in the end."""


class LateAddresses:
    """Addresses that are missing.  For the main thread."""

    def __init__(
        self,
        addresses: Sequence[Address],
        listeners: Iterable[Listener],
        backlog: int,
        keepalive: KeepAlive,
        wake: Callable[[], None],
    ) -> None:
        """`listeners`: those that there are already.

        `wake` is called, in another thread, when `take` has something to return.
        """
        self._missing = list(addresses)
        self._present = {each.name for each in listeners}
        self._backlog = backlog
        self._keepalive = keepalive
        self._wake = wake
        self._found: SimpleQueue[tuple[Address, list[Listener]]] = SimpleQueue()
        self._ended = Event()
        self._thread = Thread(target=self._run, name="late addresses", daemon=True)

    def start(self) -> None:
        """Begin to try, and say so."""
        for address in self._missing:
            events.ADDRESS_UNRESOLVED(address=address)
        self._thread.start()

    @property
    def missing(self) -> list[Address]:
        """The addresses that are still missing."""
        return list(self._missing)

    def take(self) -> list[list[Listener]]:
        """The listeners of the addresses that could be resolved since the last call."""
        found = []
        while not self._found.empty():
            address, listeners = self._found.get()
            if listeners:
                names = ", ".join(each.name for each in listeners)
                events.ADDRESS_FOUND(address=address, addresses=names)
                found.append(listeners)
        return found

    def stop(self) -> None:
        """Try no more, and close the listeners that `take` has not returned.

        Does not wait for the resolver: the thread closes what it binds afterwards.
        """
        self._ended.set()
        while not self._found.empty():
            for listener in self._found.get()[1]:
                listener.close()

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while self._missing:
            for address in list(self._missing):
                try:
                    listeners = bind_late(address, self._backlog, self._keepalive, self._present)
                except GracedError:
                    continue
                if self._ended.is_set():
                    for listener in listeners:
                        listener.close()
                    return
                self._missing.remove(address)
                self._present.update(listener.name for listener in listeners)
                self._found.put((address, listeners))
                self._wake()
            if self._ended.wait(pause):
                return
            pause = min(2 * pause, LONGEST_PAUSE)
