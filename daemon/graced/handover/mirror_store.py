"""The bundles of a mirror in the store: the next one is stored before the last one is removed.

The service manager removes descriptors by their name, so each bundle has a name of its own.  A
process that is killed between two messages leaves a bundle with all clients behind, or two.
"""

from __future__ import annotations

from graced.handover.fdstore import MIRRORED, is_mirrored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from socket import socket

    from graced.systemd.notify import Notifier


class MirrorStore:
    """The bundles of one service.  One thread at a time."""

    def __init__(self, notifier: Notifier, names: Iterable[str]) -> None:
        """`names`: of all descriptors that the last process has left in the store."""
        self._notifier = notifier
        self._old = [name for name in names if is_mirrored(name)]
        """The names that may still be in the store, but for the last one."""
        self._last = ""
        self._number = max((_number(name) for name in self._old), default=0)

    def replace(self, sock: socket) -> None:
        """Store a socket in the place of all before; it stays open until another replaces it."""
        notifier = self._notifier
        # What waits to be sent is withdrawn, and what was never stored need not be removed.
        if self._last:
            self._old = [name for name in self._old if notifier.will_forget(name)]
            if notifier.stores(self._last):
                self._old.append(self._last)
        self._number += 1
        self._last = MIRRORED if self._number == 1 else f"{MIRRORED}-{self._number}"
        notifier.replace(MIRRORED, self._last, sock, self._old)

    def release(self) -> None:
        """Remove all; return when the service manager has closed them."""
        for name in (*self._old, self._last):
            if name:
                self._notifier.forget(name, lane=MIRRORED)
        self._notifier.barrier()


def _number(name: str) -> int:
    number = name.rpartition("-")[2]
    return int(number) if number.isascii() and number.isdecimal() else 1
