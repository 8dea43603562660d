"""The log level of a running service, set by an operator until the next start."""

from __future__ import annotations

import sys
from functools import partial

from graced.log import events
from graced.log.event import LEVELS, Record
from graced.loop.phase import ACTIVE, TRACED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.control.subject import Subject
    from graced.loop.clients import Clients

NAMES = ("debug", "info", "warning", "error")


def name_of(subject: Subject) -> str:
    """The level that is logged now."""
    return subject.log.level.name.lower()


def set_level(subject: Subject, name: str, user: int) -> str:
    """Log from the level `name` up, and return the level before.

    A record that names `user` is in the log whatever the levels.
    """
    before, log = name_of(subject), subject.log
    log.level = LEVELS[name.upper()]
    log.put(Record(events.LOG_LEVEL_SET, {"user": user, "level": name, "before": before}))
    if "graced.log.bridge" in sys.modules:
        # A handler that is not built in logs with `logging`.
        sys.modules["logging"].getLogger().setLevel(log.level.number)
    for thread in subject.server.io_threads:
        thread.post(partial(_trace, thread.clients))
    return before


def _trace(clients: Clients) -> None:
    """Log each message of the built-in echo, or log none; in the I/O thread."""
    if clients.resting not in {ACTIVE, TRACED}:
        return
    clients.resting = TRACED if events.RECEIVED.enabled() else ACTIVE
    for client in clients.present():
        if client.phase == ACTIVE:
            # A client that is TRACED becomes ACTIVE after its next message.
            client.phase = clients.resting
