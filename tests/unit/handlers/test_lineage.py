"""The children of a handler."""

from __future__ import annotations

import os
import select
import threading
from typing import Any

import pytest

from graced.handlers import lineage
from graced.handlers.lineage import Lineage
from support import PATIENCE

MOMENT = 0.2


def fork_a_child_that_stays() -> tuple[int, int]:
    """The process, and a descriptor that ends it when it is closed."""
    stay, end = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(end)
        os.read(stay, 1)
        os._exit(0)
    os.close(stay)
    return pid, end


def test_child_of_one_handler_is_not_waited_for_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The two fork at the same time."""
    has_pipe, has_forked = threading.Event(), threading.Event()
    pipe = os.pipe
    children: list[tuple[int, int]] = []

    def slow_pipe() -> tuple[int, int]:
        made = pipe()
        if threading.current_thread() is threading.main_thread():
            has_pipe.set()
            # In vain: one thread forks at a time.
            has_forked.wait(MOMENT)
        return made

    def other_handler() -> None:
        has_pipe.wait(PATIENCE)
        children.append(fork_a_child_that_stays())
        has_forked.set()

    class Slow:
        pipe = staticmethod(slow_pipe)

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

    monkeypatch.setattr(lineage, "os", Slow())
    ours = Lineage()
    thread = threading.Thread(target=other_handler)
    thread.start()
    ours.watch()
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    thread.join()
    ((stays, end),) = children
    try:
        poll = select.poll()
        (hangs_up,) = ours._ends
        poll.register(hangs_up, 0)
        assert poll.poll(1000 * PATIENCE)
    finally:
        ours.close()
        os.close(end)
        os.waitpid(stays, 0)
