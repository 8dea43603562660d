"""A crowd of clients is told, each of it once and at the right place."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from signal import SIGTERM

import pytest

from support import FAREWELL, MOMENT, Client, Graced

IDLE = 1000
BUSY = 50
GRACE = 5
MESSAGE = 16
LAST_WORDS = 20
"""Messages that a busy client sends after its farewell."""


class Busy(threading.Thread):
    """A client that sends a message when it has the echo of the one before."""

    def __init__(self, client: Client) -> None:
        super().__init__(name=f"busy {client.name}")
        self.client = client
        self.failure: BaseException | None = None
        self.sent = 0
        self.talking = threading.Event()
        self.told_after = -1
        """How many messages were echoed before the farewell."""

    def run(self) -> None:
        try:
            with self.client:
                self.talk()
        except BaseException as failure:
            self.failure = failure
            self.talking.set()

    def talk(self) -> None:
        left = LAST_WORDS
        while left:
            message = b"%016d" % self.sent
            self.client.send(message)
            answer = self.client.recv_exactly(len(FAREWELL))
            if answer == FAREWELL:
                assert self.told_after < 0, "told twice"
                self.told_after = self.sent
                answer = self.client.recv_exactly(len(FAREWELL))
            answer += self.client.recv_exactly(MESSAGE - len(FAREWELL))
            assert answer == message
            self.sent += 1
            self.talking.set()
            if self.told_after >= 0:
                left -= 1
        self.client.finish()
        rest = self.client.recv_to_end()
        assert rest == b""


@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
def test_idle_busy_and_deaf_clients(handler: str) -> None:
    config = f"[limits]\nmax_handler_threads = {IDLE + BUSY + 1}"
    options = ("--handler", handler, "--grace", str(GRACE))
    with Graced(*options, config=config) as graced, ExitStack() as stack:
        idle = [stack.enter_context(graced.connect()) for _ in range(IDLE)]
        for client in idle[::10]:
            client.echo(b"hello")
        deaf = stack.enter_context(graced.connect())
        taken = deaf.send_until_full()
        busy = [Busy(graced.connect()) for _ in range(BUSY)]
        for thread in busy:
            thread.start()
        for thread in busy:
            thread.talking.wait()
        graced.log.wait_for("<6>connection from", IDLE + BUSY + 1)

        graced.signal(SIGTERM)
        for client in idle:
            client.expect_farewell_alone()
        for client in idle[::100]:
            client.echo(b"and I have one more thing to say")
        for client in idle:
            client.finish()
        for client in idle:
            client.expect_end()
        for thread in busy:
            thread.join()
            assert thread.failure is None, thread.failure
            assert thread.told_after > 0
            assert thread.sent == thread.told_after + LAST_WORDS
        assert graced.wait() == 0

        assert graced.stopped[1:] == (IDLE + BUSY, 1)
        assert GRACE <= graced.stopped.seconds <= GRACE + MOMENT
        received = drain(deaf)
        assert received == b"x" * len(received), "the farewell came inside of what it was unsent"
        assert len(received) < taken


def drain(client: Client) -> bytes:
    """What had been sent to a client before it was closed, politely or not."""
    data = bytearray()
    try:
        while chunk := client.recv():
            data += chunk
    except ConnectionResetError:
        pass
    return bytes(data)


@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
def test_crowd_that_leaves_when_told_ends_drain(handler: str) -> None:
    config = "[limits]\nmax_handler_threads = 300"
    options = ("--handler", handler, "--grace", "600")
    with Graced(*options, config=config) as graced, ExitStack() as stack:
        clients = [stack.enter_context(graced.connect()) for _ in range(300)]
        for client in clients:
            client.echo(b"hello")
        graced.signal(SIGTERM)
        for client in clients:
            client.expect_farewell_alone()
            client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (300, 0)
        assert graced.stopped.seconds < 60
