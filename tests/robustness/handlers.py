"""Handlers that misbehave, for ``--handler robustness.handlers:NAME``.

Each echoes, until it is told to do what it should not.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import socketserver
import threading
from typing import Any

from graced.sockets.blocked_read import waits_for_input

HERE = "robustness.handlers"

_kept: list[object] = []
LINES = 20_000


class _Unspeakable(Exception):
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __str__(self) -> str:
        raise RuntimeError("no str")


def _recurse(depth: int) -> int:
    return _recurse(depth + 1) + 1


class Misbehaving(socketserver.BaseRequestHandler):
    """Does what the message says, if it is the name of one of the methods below."""

    farewell = b"SHUTDOWN"
    request: socket.socket

    def handle(self) -> None:
        while data := self.request.recv(1024):
            name = data.decode("latin-1").replace(" ", "_")
            method: Any = getattr(self, f"do_{name}", None)
            if method:
                method()
                return
            self.request.sendall(data)

    # Raising

    def do_raise(self) -> None:
        raise ValueError("a mistake")

    def do_exit(self) -> None:
        raise SystemExit(42)

    def do_interrupt(self) -> None:
        raise KeyboardInterrupt

    def do_raise_the_unspeakable(self) -> None:
        raise _Unspeakable

    def do_forge(self) -> None:
        raise ValueError("oh\n<2>forged: \x1b[2J\r<2>forged\u2028<2>forged\x85<2>forged")

    def do_recurse(self) -> None:
        _recurse(0)

    def do_run_out_of_memory(self) -> None:
        raise MemoryError

    def do_raise_a_group(self) -> None:
        raise BaseExceptionGroup("many", [ValueError(1), KeyboardInterrupt()])

    # Leaking

    def do_keep(self) -> None:
        _kept.append(self)

    def do_detach(self) -> None:
        _kept.append(self.request.detach())

    def do_duplicate(self) -> None:
        _kept.append(self.request.dup())

    def do_leave_a_file_open(self) -> None:
        _kept.append(self.request.makefile("rwb"))

    def do_leave_a_thread(self) -> None:
        thread = threading.Thread(target=threading.Event().wait, daemon=True)
        thread.start()

    def do_leave_a_stubborn_thread(self) -> None:
        threading.Thread(target=threading.Event().wait).start()

    # Closing

    def do_close_twice(self) -> None:
        self.request.close()
        self.request.close()

    def do_close_and_go_on(self) -> None:
        self.request.close()
        self.request.sendall(b"nobody")

    def do_shut_down_twice(self) -> None:
        self.request.shutdown(socket.SHUT_RDWR)
        self.request.shutdown(socket.SHUT_RDWR)

    def do_close_from_another_thread(self) -> None:
        """Before the read, or while it waits."""
        native_id, fd = threading.get_native_id(), self.request.fileno()
        closed = threading.Event()

        def close() -> None:
            while not waits_for_input(native_id, fd):
                assert not closed.is_set()
            self.request.close()

        threading.Thread(target=close).start()
        try:
            assert self.request.recv(10) == b""
        finally:
            closed.set()

    def do_close_in_another_thread(self) -> None:
        thread = threading.Thread(target=self.request.close)
        thread.start()
        thread.join()
        self.request.recv(10)

    # Blocking

    def do_block(self) -> None:
        threading.Event().wait()

    def do_lock(self) -> None:
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()

    def do_wait_for_a_child(self) -> None:
        read, _ = os.pipe()
        os.read(read, 1)

    # Changing what is not its own

    def do_not_block(self) -> None:
        self.request.setblocking(False)
        self.request.recv(10)

    def do_time_out(self) -> None:
        self.request.settimeout(0.01)
        self.request.recv(10)

    def do_change_the_log(self) -> None:
        logging.raiseExceptions = True
        logging.getLogger().log(logging.INFO, "%d %s", "not a number")


class Chatty(socketserver.BaseRequestHandler):
    """Logs a line for each, and many when it is asked to."""

    request: socket.socket

    def handle(self) -> None:
        log = logging.getLogger("chatty")
        while data := self.request.recv(1024):
            if data == b"chat":
                for number in range(LINES):
                    log.info("chat %d of %d", number, LINES)
            self.request.sendall(data)


def __getattr__(name: str) -> Any:
    """``ForkFails1``: an echo whose import makes the first fork after the first one fail."""
    number = name.removeprefix("ForkFails")
    if number == name:
        raise AttributeError(name)
    left = int(number)

    def count() -> None:
        nonlocal left
        left -= 1
        if not left:
            os.fork = fail

    def fail() -> int:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    os.register_at_fork(after_in_child=count)
    return Misbehaving
