"""The limits of the system that the limits of the configuration have to agree with."""

from __future__ import annotations

import resource
from contextlib import suppress

from graced.errors import ConfigError
from graced.log import events

OWN_DESCRIPTORS = 64
"""Those that are no client's: standard streams, listeners, epoll, the log, and some to spare."""
OWN_THREADS = 8
_CGROUPS = ("/sys/fs/cgroup/{path}/pids.max", "/sys/fs/cgroup/pids/{path}/pids.max")


def raise_descriptors(max_clients: int, others: int) -> None:
    """Raise the limit of descriptors to what so many clients, and those turned away, need."""
    need = max_clients + others + OWN_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and need > soft:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))


def check_descriptors(max_clients: int, others: int) -> None:
    """Raise `ConfigError` where there are fewer: better now than by the one that is too many."""
    need = max_clients + others + OWN_DESCRIPTORS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and need > soft:
        raise ConfigError(
            f"limits.max_clients = {max_clients} needs {need} descriptors,"
            f" but the limit (RLIMIT_NOFILE) is {soft}"
        )


def check_threads(threads: int) -> None:
    """Say so where fewer handler threads can run than are configured; clients would wait."""
    most = _max_tasks()
    if most and threads + OWN_THREADS > most:
        events.LIMITS(
            reason=f"limits.max_handler_threads = {threads},"
            f" but the limit of tasks (TasksMax=) is {most}"
        )


def _max_tasks() -> int:
    """The limit of the control group we are in; 0 where there is none, or none that we can see."""
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
