"""The shutdown contract: every client hears the farewell once, alone, and nothing is lost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from signal import SIGTERM, Signals
from socket import MSG_PEEK
from time import monotonic

import pytest

from support import FAREWELL, Graced

STOP = ["SIGHUP", "SIGINT", "SIGTERM", "SIGQUIT"]
SLOW_GAP = 1.0
"""Seconds: long enough for a client to read within it on a busy machine."""


@pytest.fixture
def graced(handler: str, address: str) -> Iterator[Graced]:
    with Graced("--handler", handler, listen=address) as graced:
        yield graced


@pytest.mark.parametrize("signame", STOP)
def test_each_stop_signal_is_acknowledged_and_tells_clients(signame: str) -> None:
    with Graced("--grace", "30") as graced, graced.served() as one, graced.served() as two:
        graced.signal(Signals[signame])
        for client in (one, two):
            client.expect_farewell_alone()
            client.close()
        assert graced.wait() == 0
        lines = graced.log.lines
        start = lines.index(f"<6>{signame} received, closing in 30 s, 2 clients remaining")
        assert lines[start + 1] == "<6>telling 2 clients that the server is going offline"
        assert lines[-1].startswith("<6>stopped after ")
        assert graced.stopped.left == 2
        assert graced.stopped.seconds < 30


def test_stop_without_clients_ends_at_once(graced: Graced) -> None:
    assert graced.stop() == 0
    assert graced.stopped.seconds < 4
    assert graced.stopped[1:] == (0, 0)
    assert not graced.log.count("telling")


def test_silent_client_is_told(graced: Graced) -> None:
    with graced.served() as client:
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 0)


def test_client_at_rest_is_told(graced: Graced) -> None:
    with graced.connect() as client:
        client.echo(b"hello")
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 0)


def test_clients_are_served_on_after_farewell(graced: Graced) -> None:
    with graced.connect() as client:
        client.echo(b"before")
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        for number in range(100):
            client.echo(b"after %d" % number)
        client.finish()
        client.expect_end()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 0)


def test_client_that_comes_back_to_idle_handler_is_served(graced: Graced) -> None:
    with graced.served() as silent:
        graced.signal(SIGTERM)
        silent.expect_farewell_alone()
        silent.echo(b"my first words")
        silent.finish()
        silent.expect_end()
        assert graced.wait() == 0


def test_client_that_sends_before_reading_gets_farewell_alone(handler: str, address: str) -> None:
    """The bytes that come after the farewell are answered a gap after they came."""
    options = ("--grace", "30", "--handler", handler)
    config = f"[shutdown]\nfarewell_gap = {SLOW_GAP}"
    with (
        Graced(*options, listen=address, config=config) as graced,
        graced.served() as silent,
        graced.connect() as quiet,
    ):
        quiet.echo(b"hello")
        graced.signal(SIGTERM)
        sent_at = {}
        for client in (silent, quiet):
            assert client.sock.recv(100, MSG_PEEK) == FAREWELL
            sent_at[client] = monotonic()
            client.send(b"still there?")
            client.expect_farewell_alone()
        for client in (silent, quiet):
            assert client.recv() == b"still there?"
            assert monotonic() - sent_at[client] >= SLOW_GAP
            client.echo(b"yes")
            client.finish()
            client.expect_end()
        assert graced.wait() == 0


def test_talking_client_gets_farewell_alone(handler: str, address: str) -> None:
    """A client that answers whatever comes, as fast as it can."""
    options = ("--grace", "30", "--handler", handler)
    config = "[shutdown]\nfarewell_gap = 0.5"
    with (
        Graced(*options, listen=address, config=config) as graced,
        graced.connect() as client,
    ):
        heard = []
        for number in range(100_000):
            message = b"message %6d" % number
            client.send(message)
            if number == 100:
                graced.signal(SIGTERM)
            received = client.recv()
            if received != message:
                heard.append(received)
                assert client.recv_exactly(len(message)) == message
                break
        assert heard == [FAREWELL]
        client.echo(b"goodbye")
        client.finish()
        client.expect_end()
        assert graced.wait() == 0


def test_bytes_before_signal_are_echoed_before_farewell(handler: str, address: str) -> None:
    with (
        Graced("--grace", "30", "--handler", handler, listen=address) as graced,
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(graced.connect()) for _ in range(10)]
        for client in clients:
            client.echo(b"hello")
            client.send(b"one last word")
        graced.log.wait_for("<6>connection from", len(clients))
        graced.signal(SIGTERM)
        for client in clients:
            # Unless it came while nobody was read: then it is echoed behind the farewell.
            received = client.recv_exactly(len(FAREWELL) + 13)
            assert received in {b"one last word" + FAREWELL, FAREWELL + b"one last word"}
            client.close()
        assert graced.wait() == 0


def test_client_that_leaves_at_farewell_ends_wait(graced: Graced) -> None:
    with graced.served() as one, graced.served() as two:
        graced.signal(SIGTERM)
        for client in (one, two):
            client.expect_farewell_alone()
            client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (2, 0)
        assert graced.stopped.seconds < 4


def test_client_that_does_not_read_does_not_delay_farewell(graced: Graced) -> None:
    with graced.connect() as deaf, graced.served() as silent, graced.connect() as quiet:
        deaf.send_until_full()
        quiet.echo(b"hello")
        graced.signal(SIGTERM)
        for client in (silent, quiet):
            client.expect_farewell_alone()
        deaf.reset()
        for client in (silent, quiet):
            client.close()
        assert graced.wait() == 0
        assert graced.stopped.seconds < 4


def test_client_that_reads_late_gets_all_bytes_and_farewell(handler: str, address: str) -> None:
    """One that had not taken its bytes when the drain began: first those, then the farewell."""
    with (
        Graced("--grace", "60", "--handler", handler, listen=address) as graced,
        graced.connect() as client,
    ):
        sent = client.send_until_full()
        graced.signal(SIGTERM)
        graced.log.wait_for("telling 1 client that")
        received = 0
        tail = b""
        while received < sent + len(FAREWELL):
            chunk = client.recv()
            received += len(chunk)
            tail += chunk.replace(b"x", b"")
        assert tail == FAREWELL
        client.echo(b"thank you")
        client.finish()
        client.expect_end()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 0)


@pytest.mark.parametrize("sends_first", [False, True], ids=["silent", "sends-first"])
def test_new_client_in_drain_hears_farewell_and_end(graced: Graced, sends_first: bool) -> None:
    with graced.served() as stays:
        graced.signal(SIGTERM)
        stays.expect_farewell_alone()
        for number in range(20):
            with graced.connect() as late:
                if sends_first:
                    late.send(b"x" * 100 * number + b"hello")
                # A RST, which would destroy the farewell, is an exception here.
                assert late.recv_to_end() == FAREWELL
        stays.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 0)
        assert graced.log.count("closing connection from .*: turned away, 0 bytes") == 20


def test_new_client_in_drain_that_does_not_close_is_closed(graced: Graced) -> None:
    with graced.served() as stays, ExitStack() as stack:
        graced.signal(SIGTERM)
        stays.expect_farewell_alone()
        late = [stack.enter_context(graced.connect()) for _ in range(5)]
        for client in late:
            assert client.recv_to_end() == FAREWELL
        graced.log.wait_for("closing connection from .*: turned away", len(late))
        stays.close()
        assert graced.wait() == 0


@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
def test_empty_farewell_is_not_sent(handler: str, address: str) -> None:
    """And nothing else either: the client of the echo hears of the stop at the deadline."""
    config = '[shutdown]\nfarewell = ""'
    with (
        Graced("--grace", "1", "--handler", handler, listen=address, config=config) as graced,
        graced.served() as silent,
        graced.connect() as talking,
    ):
        talking.echo(b"hello")
        graced.signal(SIGTERM)
        graced.log.wait_for("telling 2 clients")
        talking.echo(b"hello")
        with graced.connect() as late:
            assert late.recv_to_end() == b""
        for client in (silent, talking):
            assert client.recv_to_end() == b""
        assert graced.wait() == 0


def test_farewell_may_be_any_text(handler: str, address: str) -> None:
    farewell = "auf Wiedersehen, \u00e4ndere nichts!\n"
    config = f"[shutdown]\nfarewell = '''{farewell}'''"
    # A farewell of the class would come before that of the configuration.
    for told, untold in (
        ("TellingHandler", "TutorialHandler"),
        ("TellingEcho", "Echo"),
        (":Polite", ":Echo"),
    ):
        handler = handler.replace(told, untold)
    with (
        Graced("--handler", handler, listen=address, config=config) as graced,
        graced.served() as client,
    ):
        graced.signal(SIGTERM)
        client.expect_farewell_alone(farewell.encode())
        client.close()
        assert graced.wait() == 0


@pytest.mark.parametrize("when", ["told", "held", "stalled"])
def test_reset_in_drain_is_one_log_line(graced: Graced, when: str) -> None:
    with graced.served() as stays, graced.connect() as client:
        client.echo(b"hello")
        if when == "stalled":
            client.send_until_full()
        graced.signal(SIGTERM)
        stays.expect_farewell_alone()
        if when == "held":
            client.recv()
            client.send(b"are you there?")
        client.reset()
        graced.log.wait_for("closing connection from")
        stays.close()
        assert graced.wait() == 0
        assert graced.log.count("closing connection from") == 2


def test_several_io_threads_tell_all_clients(handler: str, address: str) -> None:
    config = "[server]\nio_threads = 3"
    with (
        Graced("--grace", "30", "--handler", handler, listen=address, config=config) as graced,
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(graced.connect()) for _ in range(60)]
        for client in clients:
            client.echo(b"hello")
        graced.signal(SIGTERM)
        for client in clients:
            client.expect_farewell_alone()
            client.send(b"and now")
        for client in clients:
            assert client.recv_exactly(7) == b"and now"
            client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (60, 0)


def test_end_of_stream_in_drain_is_seen(graced: Graced) -> None:
    """A client that has sent everything may half-close before it reads the farewell."""
    with graced.served() as stays, graced.connect() as client:
        client.echo(b"hello")
        graced.signal(SIGTERM)
        client.send(b"last words")
        client.finish()
        received = client.recv_to_end()
        assert re.fullmatch(rb"(last words)?SHUTDOWN(last words)?|last words", received)
        assert received.count(b"last words") == 1
        stays.close()
        assert graced.wait() == 0


def test_log_is_in_order(graced: Graced) -> None:
    with graced.served() as client:
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        client.close()
        assert graced.wait() == 0
    events = [
        "serving on",
        "<6>connection from",
        "SIGTERM received",
        "telling 1 client that",
        "closing connection from",
        "stopped after",
    ]
    places = [
        next(index for index, line in enumerate(graced.log.lines) if event in line)
        for event in events
    ]
    assert all(one < other for one, other in pairwise(places))
    assert len(graced.log.lines) == len(events)
