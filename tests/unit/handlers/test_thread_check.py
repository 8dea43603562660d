"""Threads that a module starts at its import, by every way that Python has."""

from __future__ import annotations

import _thread
import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest

from graced.errors import ConfigError
from graced.handlers import thread_check
from graced.handlers.thread_check import refuse_threads


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a thread of a test waits for; the thread has ended after the test."""
    gate = threading.Event()
    ended = _thread._count()
    yield gate
    gate.set()
    while _thread._count() > ended:
        pass


def by_thread(work: Callable[[], Any]) -> None:
    threading.Thread(target=work, daemon=True).start()


def by_timer(work: Callable[[], Any]) -> None:
    threading.Timer(0.0, work).start()


def by_low_level_call(work: Callable[[], Any]) -> None:
    _thread.start_new_thread(work, ())


def by_executor(work: Callable[[], Any]) -> None:
    executor = ThreadPoolExecutor()
    executor.submit(work)
    executor.shutdown(wait=False)


STARTS = pytest.mark.parametrize("start", [by_thread, by_timer, by_low_level_call, by_executor])


@STARTS
def test_thread_that_runs_is_refused(
    start: Callable[[Callable[[], Any]], None], gate: threading.Event
) -> None:
    complaint = "^handler 'a:B' starts 1 thread at its import, dead in the daemon"
    with pytest.raises(ConfigError, match=complaint), refuse_threads("a:B", "at its import"):
        start(gate.wait)


def test_threads_of_a_pool_are_refused() -> None:
    with (
        pytest.raises(ConfigError, match="handler 'a:B' starts 5 threads in configure"),
        refuse_threads("a:B", "in configure()"),
    ):
        # Three more look after the two.
        pool = ThreadPool(2)
    pool.terminate()
    pool.join()


@STARTS
def test_thread_that_has_done_its_work_is_allowed(
    start: Callable[[Callable[[], Any]], None], gate: threading.Event
) -> None:
    with refuse_threads("a:B", "at its import"):
        start(gate.set)
        gate.wait()


def test_thread_of_before_is_allowed(gate: threading.Event) -> None:
    start_and_wait(gate)
    with refuse_threads("a:B", "at its import"):
        pass


def start_and_wait(gate: threading.Event) -> None:
    """Start a thread, and return when it runs."""
    started = threading.Event()

    def work() -> None:
        started.set()
        gate.wait()

    by_low_level_call(work)
    started.wait()


def test_thread_of_a_library_in_c_is_allowed() -> None:
    """As numpy has some, which it ends at the fork: the system knows them, and Python does not."""
    libc, thread = ctypes.CDLL(None), ctypes.c_ulong()
    with refuse_threads("a:B", "at its import"):
        before = set(os.listdir("/proc/self/task"))
        assert libc.pthread_create(ctypes.byref(thread), None, libc.pause, None) == 0
        assert set(os.listdir("/proc/self/task")) - before
    libc.pthread_cancel(thread)
    libc.pthread_join(thread, None)


def test_thread_is_refused_where_proc_is_not_mounted(
    monkeypatch: pytest.MonkeyPatch, gate: threading.Event
) -> None:
    monkeypatch.setattr(thread_check, "TASKS", "/nowhere")
    with (
        pytest.raises(ConfigError, match="starts 1 thread"),
        refuse_threads("a:B", "at its import"),
    ):
        start_and_wait(gate)
