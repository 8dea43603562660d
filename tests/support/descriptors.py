"""Limits on how many descriptors this process may open."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def room_for(descriptors: int) -> Iterator[None]:
    """Let this process open that many further descriptors, and none after them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The free numbers need not follow one another: other tests hold descriptors between them.
    free = [os.dup(0) for _ in range(descriptors + 1)]
    for fd in free:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
