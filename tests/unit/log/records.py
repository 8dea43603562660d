"""Records to be written, and a stderr that can be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from graced.log.event import INFO, OTHER_MESSAGE_ID, Event, Level, Record


def record(text: str = "hello", level: Level = INFO, logger: str = "any") -> Record:
    """A record of a handler."""
    return Record(Event(OTHER_MESSAGE_ID, level, text), {}, logger=logger)


@contextmanager
def stderr() -> Iterator[int]:
    """Make descriptor 2 a pipe and yield its other end (pytest restores 2 around fixtures)."""
    read, write = os.pipe()
    saved = os.dup(2)
    os.dup2(write, 2)
    os.close(write)
    try:
        yield read
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(read)
