"""The socket of a handler and its client, without a pool."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from graced.handlers.handler_socket import HandlerSocket
from support import PATIENCE, Client

GAP = 0.2
TICK = 0.02
"""Seconds; the kernel counts silence in jiffies."""
Make = Callable[..., "Pair"]


class Pair(NamedTuple):
    handler: HandlerSocket
    client: Client


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return listener.accept()[0], client


def wait_for_the_gap(pair: Pair) -> None:
    """Wait as long as the I/O thread does before it looks again: silence is time that passes."""
    time.sleep(max(0.0, GAP - pair.handler.silence) + TICK)


def say_goodbye(pair: Pair) -> float:
    pair.handler.begin_drain()
    return pair.handler.say_goodbye()


def nothing_to_read(client: Client) -> bool:
    client.sock.setblocking(False)
    try:
        client.recv()
    except BlockingIOError:
        return True
    finally:
        client.sock.settimeout(PATIENCE)
    return False


class Running:
    """A handler in a thread, as the pool runs it."""

    def __init__(self, pair: Pair, handle: Callable[[HandlerSocket], None]) -> None:
        self._pair = pair
        self._handle = handle
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self._pair.handler.thread = threading.current_thread()
        with suppress(ConnectionError):
            self._handle(self._pair.handler)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_failure: object) -> None:
        self._pair.client.close()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def wait_until_asleep(self, call: str = "") -> None:
        """Wait until the thread sleeps in the kernel."""
        path = Path(f"/proc/self/task/{self._thread.native_id}/syscall")
        deadline = time.monotonic() + PATIENCE
        while not path.read_text().startswith(call) or path.read_text() == "running\n":
            assert time.monotonic() < deadline

    def goodbye(self) -> None:
        """Look at the client until there is nothing more to do, as the I/O thread does.

        The times between two looks are those that `say_goodbye` asks for.
        """
        self._pair.handler.begin_drain()
        deadline = time.monotonic() + PATIENCE
        while wait := self._pair.handler.say_goodbye():
            assert time.monotonic() < deadline
            time.sleep(min(wait, TICK))


def answer_lines(request: HandlerSocket) -> None:
    """A protocol: each line is answered, and the end of the input gets a last word."""
    with request.makefile("rb") as lines:
        for line in lines:
            request.sendall(line.upper())
    request.sendall(b"bye")
