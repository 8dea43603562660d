"""The answer of ``Status``: the state of a service in numbers."""

from __future__ import annotations

import os
from time import monotonic, time

from graced import __version__
from graced.control import log_level
from graced.process import limits
from graced.process.lifecycle import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from graced.control.subject import Reload, Subject

FIRST_REASON = "max_clients"
"""A reason that each service can have to refuse a client: counted before the first of them."""
UNKNOWN_REASON = "unknown"
"""In place of the reasons of a release that did not count them."""


def status(subject: Subject) -> dict[str, Any]:
    """The parameters of the reply."""
    server = subject.server
    dropped, suppressed = subject.log.losses
    inherited = None
    if subject.inherited:
        clients, milliseconds = subject.inherited
        inherited = {"clients": clients, "milliseconds": milliseconds}
    drain = None
    if server.deadline is not None:
        seconds = max(0.0, server.deadline - monotonic())
        drain = {"secondsLeft": round(seconds, 3), "departed": server.departed}
    return {
        "name": subject.name,
        "version": __version__,
        "pid": os.getpid(),
        "state": subject.supervisor.lifecycle.state.value.replace(" ", "_"),
        "since": began_at(subject),
        "uptime": round(monotonic() - subject.since, 3),
        "handler": subject.handler,
        "listeners": list(server.addresses),
        "missing": subject.supervisor.missing,
        "clients": server.clients,
        "waiting": server.waiting,
        "admitted": server.admitted,
        "probes": server.probes,
        "refused": [
            {"reason": reason, "clients": number}
            for reason, number in refusals(subject).items()
            if number
        ],
        "sent": server.echoed,
        "limits": limits_of(subject),
        "logLevel": log_level.name_of(subject),
        "logDropped": dropped,
        "logSuppressed": suppressed,
        "inherited": inherited,
        "drain": drain,
    }


def began_at(subject: Subject) -> int:
    """When the process began to serve, in seconds since 1970 by the clock of today."""
    return round(time() - (monotonic() - subject.since))


def refusals(subject: Subject) -> dict[str, int]:
    """The number of refused clients so far, by reason."""
    admission = subject.server.admission
    found = {FIRST_REASON: 0, **admission.refused_by}
    if (unknown := admission.refused - sum(found.values())) > 0:
        found[UNKNOWN_REASON] = unknown
    return found


def progress(subject: Subject) -> dict[str, Any]:
    """How far a stop has come: the parameters of a reply of ``Drain``."""
    server, deadline = subject.server, subject.server.deadline
    return {
        "clients": server.clients,
        "departed": server.departed,
        "closed": server.closed,
        "secondsLeft": None if deadline is None else round(max(0.0, deadline - monotonic()), 3),
        "ended": subject.supervisor.lifecycle.state is State.STOPPED,
    }


def outcome(reload: Reload) -> dict[str, Any]:
    """How a reload went: the parameters of a reply of ``Reload``."""
    # First: the rest changes no more when it is true.
    ended = reload.ended
    return {
        "ended": ended,
        "reason": reload.reason if ended else "",
        "pid": reload.pid,
        "moved": reload.moved,
        "remaining": reload.remaining,
    }


def limits_of(subject: Subject) -> list[dict[str, Any]]:
    """The limits that are set, with how near they are: see ``Limit`` of io.graced.Control."""
    admission = subject.server.admission
    found = [("max_clients", admission.clients, admission.max_clients)]
    if admission.max_per_host:
        found.append(("max_clients_per_host", admission.most_of_a_host, admission.max_per_host))
    if subject.max_handler_threads and (pool := subject.server.pool):
        found.append(("max_handler_threads", len(pool.threads), subject.max_handler_threads))
    if (most := limits.most_descriptors()) and (now := _open_descriptors()):
        found.append(("descriptors", now, most))
    return [{"name": name, "now": now, "most": most} for name, now, most in found]


def _open_descriptors() -> int:
    """The number of descriptors of this process; 0: there is no /proc."""
    try:
        # Without that of the directory itself.
        return len(os.listdir("/proc/self/fd")) - 1
    except OSError:
        return 0
