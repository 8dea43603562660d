"""The end of the grace period: which clients are closed then, and when."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from signal import SIGTERM

from support import FAREWELL, MOMENT, Graced


def test_remaining_client_is_closed_at_deadline_and_departed_is_not(
    handler: str, address: str
) -> None:
    with (
        Graced("--grace", "1", "--handler", handler, listen=address) as graced,
        graced.served() as silent,
        graced.connect() as quiet,
        graced.connect() as leaves,
    ):
        for client in (quiet, leaves):
            client.echo(b"hello")
        graced.signal(SIGTERM)
        for client in (silent, quiet, leaves):
            client.expect_farewell_alone()
        quiet.echo(b"I stay")
        leaves.close()
        for client in (silent, quiet):
            assert client.recv_to_end() == b""
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 2)
        assert 1 <= graced.stopped.seconds < 1 + MOMENT
        assert graced.log.count("closing connection from .*: deadline, ") == 2


def test_countdown_is_logged_each_second() -> None:
    with Graced("--grace", "3") as graced, graced.served() as client:
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        assert graced.wait() == 0
        assert [match[1] for match in graced.log.matches("^<6>(closing in .*)")] == [
            "closing in 2 s, 1 client remaining",
            "closing in 1 s, 1 client remaining",
        ]
        assert 3 <= graced.stopped.seconds < 3 + MOMENT


def test_remaining_clients_share_one_deadline(handler: str) -> None:
    """And none for each: ten clients that stay do not take ten times as long."""
    with Graced("--grace", "1", "--handler", handler) as graced, ExitStack() as stack:
        clients = [stack.enter_context(graced.connect()) for _ in range(10)]
        for client in clients[::2]:
            client.send_until_full()
        for client in clients[1::2]:
            client.echo(b"hello")
        graced.signal(SIGTERM)
        assert graced.wait() == 0
        assert graced.stopped[1:] == (0, 10)
        assert 1 <= graced.stopped.seconds < 1 + MOMENT


def test_client_in_queue_at_deadline_is_told() -> None:
    """Every client whose connect(2) succeeded gets an answer."""
    with Graced("--grace", "1") as graced, graced.served() as stays, ExitStack() as stack:
        graced.signal(SIGTERM)
        stays.expect_farewell_alone()
        stop = threading.Event()
        answers: list[bytes] = []

        def come() -> None:
            while not stop.is_set():
                try:
                    client = stack.enter_context(graced.connect())
                except ConnectionRefusedError:
                    return
                except ConnectionResetError:
                    # connect(2) did not succeed: the socket went while it was being set up.
                    return
                client.finish()
                answers.append(client.recv_to_end())

        thread = threading.Thread(target=come)
        thread.start()
        try:
            assert graced.wait() == 0
        finally:
            stop.set()
            thread.join()
        assert len(answers) > 10
        assert set(answers) == {FAREWELL}


def test_farewell_is_sent_with_grace_period_of_zero(handler: str, address: str) -> None:
    with (
        Graced("--grace", "0", "--handler", handler, listen=address) as graced,
        graced.served() as silent,
        graced.connect() as talking,
    ):
        talking.echo(b"hello")
        graced.signal(SIGTERM)
        for client in (silent, talking):
            assert client.recv_to_end() == FAREWELL
        assert graced.wait() == 0
        assert graced.stopped.seconds < MOMENT
