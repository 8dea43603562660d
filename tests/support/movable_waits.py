"""Handlers that can go on in the next process, and wait for their client in other ways than recv.

For ``--handler support.movable_waits:NAME``: each answers a message with its number.
"""

from __future__ import annotations

import select
import socketserver
import threading

from support.movable import CountingHandler


class Counter(socketserver.BaseRequestHandler):
    number = 0

    def answer(self) -> bool:
        """Read and answer a message; return False at the end of the input."""
        if not self.request.recv(1024):
            return False
        self.number += 1
        self.request.sendall(b"%d" % self.number)
        return True

    save = CountingHandler.save
    restore = CountingHandler.restore


class Selecting(Counter):
    """Waits in select(2), for ever."""

    def handle(self) -> None:
        while select.select([self.request], [], []) and self.answer():
            pass


class Polling(Counter):
    """Waits in poll(2), for a moment, again and again."""

    def handle(self) -> None:
        poll = select.poll()
        poll.register(self.request, select.POLLIN)
        while not poll.poll(50) or self.answer():
            pass


class Impatient(Counter):
    """Has a timeout, and tries again and again."""

    def handle(self) -> None:
        self.request.settimeout(0.05)
        while True:
            try:
                if not self.answer():
                    return
            except TimeoutError:
                continue


class Patient(Counter):
    """Has a timeout that is longer than a restart."""

    def handle(self) -> None:
        self.request.settimeout(600)
        while self.answer():
            pass


class OtherThread(Counter):
    """Reads in another thread, for which it waits."""

    def handle(self) -> None:
        thread = threading.Thread(target=self._work)
        thread.start()
        thread.join()

    def _work(self) -> None:
        while self.answer():
            pass
