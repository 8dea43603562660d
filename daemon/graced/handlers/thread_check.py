"""The check that other people's code starts no thread before the daemon forks."""

from __future__ import annotations

import threading
from contextlib import contextmanager

from graced.errors import ConfigError
from graced.log.event import plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def refuse_threads(name: str, when: str) -> Iterator[None]:
    """Raise `ConfigError` if the handler `name` has started a thread; `when`: "at its import"."""
    running = set(threading.enumerate())
    yield
    if started := set(threading.enumerate()) - running:
        raise ConfigError(
            f"handler {name!r} starts {plural(len(started), 'thread')} {when},"
            " dead in the daemon, which forks: start it in the hook startup"
        )
