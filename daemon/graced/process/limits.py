"""The limits of the system that the limits of the configuration must agree with."""

from __future__ import annotations

import resource
from contextlib import suppress

from graced.errors import ConfigError

OWN_DESCRIPTORS = 64
"""Descriptors besides those of clients: standard streams, listeners, epoll, log, and a reserve."""
OWN_THREADS = 8
"""Threads besides those of handlers."""
_CGROUPS = ("/sys/fs/cgroup/{path}/pids.max", "/sys/fs/cgroup/pids/{path}/pids.max")


def raise_descriptors(max_clients: int, others: int) -> None:
    """Raise the soft limit of descriptors as far as `check_descriptors` needs.

    `others`: clients besides `max_clients` that are being turned away.
    """
    need = max_clients + others + OWN_DESCRIPTORS
    soft, hard = _descriptors()
    if soft != resource.RLIM_INFINITY and need > soft:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))


def check_descriptors(max_clients: int, others: int, limit: int | None = None) -> None:
    """Raise `ConfigError` if the limit of descriptors is too low for the clients.

    A client without a descriptor would be found out only when it connects.  `limit`: None for
    the soft limit of this process.
    """
    need = max_clients + others + OWN_DESCRIPTORS
    if limit is None:
        limit, _ = _descriptors()
    if limit != resource.RLIM_INFINITY and need > limit:
        raise ConfigError(
            f"limits.max_clients = {max_clients} needs {need} descriptors,"
            f" but the limit (RLIMIT_NOFILE) is {limit}"
        )


def _descriptors() -> tuple[int, int]:
    """The soft and the hard limit; infinite where we may not read them."""
    try:
        return resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError:
        return resource.RLIM_INFINITY, resource.RLIM_INFINITY


def has_room_in_flight(descriptors: int) -> bool:
    """Whether so many descriptors may be sent and not received, by the soft limit (unix(7))."""
    soft, _ = _descriptors()
    return soft == resource.RLIM_INFINITY or descriptors < soft


def most_descriptors() -> int:
    """The soft limit of descriptors; 0: none is known."""
    soft, _ = _descriptors()
    return 0 if soft == resource.RLIM_INFINITY else soft


def hard_descriptors() -> int:
    """The limit up to which `raise_descriptors` can go."""
    return _descriptors()[1]


def lack_of_tasks(threads: int, limit: int | None = None) -> str:
    """The reason why fewer handler threads can run than are configured; empty: there is none.

    No error: clients wait for a thread.  `limit`: None for that of the control group.
    """
    most = max_tasks() if limit is None else limit
    if most and threads + OWN_THREADS > most:
        return (
            f"limits.max_handler_threads = {threads}, but the limit of tasks (TasksMax=) is {most}"
        )
    return ""


def max_tasks() -> int:
    """The limit of tasks of our control group; 0: no limit, or no control group in sight."""
    try:
        with open("/proc/self/cgroup", encoding="ascii") as file:
            groups = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return 0
    for _, controllers, path in groups:
        if controllers in {"", "pids"}:
            for template in _CGROUPS:
                try:
                    with open(template.format(path=path.strip("/")), encoding="ascii") as file:
                        limit = file.read().strip()
                except OSError:
                    continue
                return int(limit) if limit.isdigit() else 0
    return 0
