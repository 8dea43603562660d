"""A new process whose old one has died asks the service manager: is this the main process?"""

from __future__ import annotations

import select
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.systemd.notify import Notifier

_TIMEOUT = 1.0
"""Seconds in which the service manager closes what it does not take from this process."""
_NAME = "graced-asking"


def is_main(notifier: Notifier) -> bool:
    """Whether the service manager takes a descriptor from this process."""
    ours, theirs = socket.socketpair()
    with ours:
        notifier.store(_NAME, [theirs], sent=theirs.close)
        notifier.barrier()
        poll = select.poll()
        poll.register(ours, 0)
        found = not poll.poll(1000 * _TIMEOUT)
    notifier.forget(_NAME)
    return found
