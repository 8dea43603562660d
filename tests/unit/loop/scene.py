"""An I/O thread with real sockets and without the rest of the server; and the parts of a thread."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from select import EPOLLIN
from socket import socketpair
from typing import Any

import graced.loop.client
from graced.loop.acceptor import Acceptors
from graced.loop.admission import Admission
from graced.loop.clients import Clients
from graced.loop.farewell import Farewell
from graced.loop.idle import IdleSweep
from graced.loop.io_thread import IOThread
from graced.loop.policy import Policy
from graced.loop.poller import Poller
from graced.loop.silence import SilenceWatch
from graced.loop.transfer import Transfer
from graced.loop.waiting import Waiting
from graced.sockets import binding
from graced.sockets.address import Address
from graced.sockets.listener import Listener
from support import PATIENCE, Client

LoopClient = graced.loop.client.Client
Make = Callable[..., "Scene"]
MakeParts = Callable[..., "Parts"]
TRIES = 50


class Handlers:
    """Handlers that take clients and do nothing with them."""

    def __init__(
        self, *, greet: bool | None = False, movable: bool = False, sends_unsent: bool = False
    ) -> None:
        self.greet = greet
        self.movable = movable
        self.sends_unsent = sends_unsent
        self.longest_silence = 0.0
        self.reminders = 0
        self.next_goodbye = math.inf
        self.taken: SimpleQueue[LoopClient] = SimpleQueue()
        self.free = math.inf
        """Threads that can be reserved."""
        self.refused = 0
        """Threads that cannot be started."""

    def start(self, client: Any) -> bool:
        if self.refused:
            self.refused -= 1
            return False
        self.taken.put(client)
        return True

    def reserve(self) -> bool:
        self.free -= 1
        return self.free >= 0

    def say_goodbyes(self) -> float:
        self.reminders += 1
        return self.next_goodbye

    def close_idle(self, _timeout: float) -> float:
        return self.longest_silence

    def present(self) -> list[Any]:
        return []


class FailingListener:
    """A listener whose `accept` fails with the given error numbers before it succeeds."""

    def __init__(self, good: Listener, codes: Sequence[int]) -> None:
        self._good = good
        self._codes = list(codes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._good, name)

    def accept(self) -> Any:
        if self._codes:
            code = self._codes.pop(0)
            raise OSError(code, os.strerror(code))
        return self._good.accept()


class Scene:
    """A running I/O thread that serves one listener."""

    def __init__(
        self,
        address: str = "127.0.0.1:0",
        limit: int = 100,
        *,
        accept_errors: Sequence[int] = (),
        listener: Listener | None = None,
        per_host: int = 0,
        handlers: Handlers | None = None,
        streaming: Any = None,
        **policy: Any,
    ) -> None:
        self.listener = listener or binding.bind([Address.parse(address)], 100)[0]
        served: Any = FailingListener(self.listener, accept_errors)
        self.changes = threading.Semaphore(0)
        self.admission = Admission(limit, per_host)
        self.thread = IOThread(
            [served if accept_errors else self.listener],
            self.admission,
            Policy(**policy),
            handlers=handlers,
            streaming=streaming,
            changed=self.changes.release,
        )
        self.thread.start()

    def close(self) -> None:
        self.finish()
        self.thread.close()
        self.listener.close()

    def connect(self) -> Client:
        return Client.connect(self.listener.name)

    def changed(self) -> None:
        """Wait for a change."""
        assert self.changes.acquire(timeout=PATIENCE)

    def do(self, action: Callable[[], Any]) -> Any:
        """Run the action in the thread, and return its result."""
        results: SimpleQueue[Any] = SimpleQueue()
        self.thread.post(lambda: results.put(action()))
        return results.get(timeout=PATIENCE)

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait until activity of the clients has made the condition true."""
        give_up = time.monotonic() + PATIENCE
        while True:
            self.thread.report_next_activity()
            if self.do(condition):
                return
            assert self.changes.acquire(timeout=max(0.0, give_up - time.monotonic()))

    def freeze(self, most: int | None = None) -> list[LoopClient]:
        taken: SimpleQueue[list[LoopClient]] = SimpleQueue()
        self.thread.freeze(lambda transfer: taken.put(transfer.freeze(most)))
        return taken.get(timeout=PATIENCE)

    def adopt(self, clients: list[LoopClient]) -> None:
        done: SimpleQueue[None] = SimpleQueue()
        self.thread.adopt(clients, lambda: done.put(None))
        done.get(timeout=PATIENCE)

    def freeze_with_unsent(self, client: Client) -> tuple[LoopClient, int]:
        """Freeze the only client when it has unsent bytes; return how many bytes it has sent."""
        sent = 0
        for _ in range(TRIES):
            sent += client.send_until_full()
            (frozen,) = self.freeze()
            if frozen.unsent:
                return frozen, sent
            self.adopt([frozen])
        raise AssertionError("the kernel takes everything")

    def finish(self) -> None:
        self.thread.finish()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


class Parts:
    """The parts of an I/O thread, for a test that is the thread."""

    def __init__(
        self,
        *,
        listeners: Sequence[Listener] = (),
        limit: int = 100,
        handlers: Handlers | None = None,
        mirror: Any = None,
        **policy: Any,
    ) -> None:
        self.changes = 0
        self.poller = Poller()
        self.admission = Admission(limit, 0)
        self.clients = Clients(
            self.poller,
            self.admission,
            Policy(**policy),
            handlers=handlers,
            mirror=mirror,
            changed=self._changed,
        )
        self.idle = IdleSweep(self.clients)
        self.acceptors = Acceptors(listeners, self.clients, self.idle, shared=False)
        self.farewell = Farewell(self.clients)
        self.transfer = Transfer(self.clients, self.acceptors, self.idle)
        self._pairs: list[tuple[LoopClient, Client]] = []

    def _changed(self) -> None:
        self.changes += 1

    @property
    def waiting(self) -> Waiting:
        """Clients that wait for a thread; only with handlers."""
        assert self.clients.waiting
        return self.clients.waiting

    @property
    def silence(self) -> SilenceWatch:
        """Clients that may wait for the first word of their handler; only with handlers."""
        assert self.clients.silence
        return self.clients.silence

    def connect(self) -> tuple[LoopClient, Client]:
        """Return a served client and its peer."""
        ours, theirs = socketpair()
        ours.setblocking(False)
        number = len(self._pairs) + 1
        client = LoopClient(ours, "unix:pair", number, self.clients.resting, self.poller.now)
        assert not self.admission.enter(client.host)
        self.poller.register(ours.fileno(), client, EPOLLIN)
        self._pairs.append((client, Client(theirs)))
        return self._pairs[-1]

    def pass_time(self, seconds: float) -> list[Any]:
        """Let time pass, and return the event sources whose time has come."""
        self.poller.now += seconds
        return list(self.poller.expired())

    def ready(self) -> list[Any]:
        """Return the event sources whose descriptors are ready."""
        return [self.poller.sources[fd] for fd, _ in self.poller.epoll.poll(0)]

    def close(self) -> None:
        for client in self.clients.present():
            client.sock.close()
        for client, peer in self._pairs:
            client.sock.close()
            peer.close()
        self.poller.close()


def fill(client: LoopClient) -> int:
    """Fill the socket of a client until the kernel takes no byte; return the number of bytes."""
    filled = 0
    for size in (65536, 1):
        try:
            while True:
                filled += client.sock.send(b"x" * size)
        except BlockingIOError:
            continue
    return filled
