"""What a thread waits for, as the kernel shows it."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from graced.sockets.blocked_read import is_known, waits_for_input
from support import PATIENCE

# Each of Debian's kernels has it.
pytestmark = pytest.mark.needs("/proc/self/syscall")


def test_kernel_tells() -> None:
    assert is_known()


@contextmanager
def calling(call: Callable[[], object], wake: Callable[[], object]) -> Iterator[int]:
    """The native identity of a thread in a call, which `wake` ends."""
    thread = threading.Thread(target=call)
    thread.start()
    try:
        assert thread.native_id
        yield thread.native_id
    finally:
        wake()
        thread.join()


def wait_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up


@pytest.mark.parametrize(
    ("read", "timeout"),
    [
        (lambda sock: sock.recv(1), None),
        (lambda sock: sock.recv(1), 60.0),
        (lambda sock: sock.recv_into(bytearray(1)), None),
        (lambda sock: sock.recvmsg(1), None),
        (lambda sock: sock.recvmsg(1), 60.0),
        (lambda sock: os.read(sock.fileno(), 1), None),
    ],
)
def test_read_is_seen(read: Callable[[socket.socket], object], timeout: float | None) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(timeout)
        with calling(lambda: read(ours), lambda: theirs.send(b".")) as thread:
            wait_until(lambda: waits_for_input(thread, ours.fileno()))
            assert not waits_for_input(thread, theirs.fileno())


def is_called_with(thread: int, number: int) -> bool:
    words = Path(f"/proc/self/task/{thread}/syscall").read_text().split()
    return words[1:2] == [f"{number:#x}"]


def test_wait_for_a_child_whose_pid_is_the_number_is_no_read() -> None:
    """Both numbers are small in a container."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        assert child.stdin
        with calling(child.wait, child.stdin.close) as thread:
            wait_until(lambda: is_called_with(thread, child.pid))
            assert not waits_for_input(thread, child.pid)


def test_select_of_the_descriptor_before_is_no_read() -> None:
    """The first argument of select(2) is the highest descriptor plus 1."""
    read, write = os.pipe()
    try:
        with calling(
            lambda: select.select([read], [], []), lambda: os.write(write, b".")
        ) as thread:
            wait_until(lambda: is_called_with(thread, read + 1))
            assert not waits_for_input(thread, read + 1)
    finally:
        os.close(read)
        os.close(write)
