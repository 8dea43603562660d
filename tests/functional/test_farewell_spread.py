"""No stampede: with a spread each client is told in its turn, whatever its handler is."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from signal import SIGINT, SIGTERM
from time import monotonic

import pytest

from functional.goodbyes import talk_until_told
from support import FAREWELL, MACHINE, PATIENCE, Client, Graced, run_graced
from support.client import MOMENT

SPREAD = 2.0
CONFIG = f"[shutdown]\nfarewell_spread = {SPREAD}\ngrace_period = 3600\n"
CLIENTS = 16
APART = 0.2
"""Of the spread, at least, between the first and the last: less once in 10^9 runs."""
WITHOUT_FAREWELL = {
    "blocking": "support.handlers:TutorialHandler",
    "stream": "support.streams:Echo",
    "asyncio": "support.asynchronous:Echo",
}


def news(clients: Sequence[Client]) -> Iterator[tuple[Client, float]]:
    """Each client when there is something to read for it, once, with the time."""
    poll = select.poll()
    waiting = {client.sock.fileno(): client for client in clients}
    for fd in waiting:
        poll.register(fd, select.POLLIN)
    while waiting:
        ready = poll.poll(1000 * PATIENCE)
        assert ready, f"{len(waiting)} clients were not told"
        for fd, _ in ready:
            poll.unregister(fd)
            yield waiting.pop(fd), monotonic()


def connected(graced: Graced, stack: ExitStack) -> list[Client]:
    """Clients, of which half have said nothing and have no handler in a thread."""
    clients = [stack.enter_context(graced.served()) for _ in range(CLIENTS)]
    for client in clients[::2]:
        client.echo(b"hello")
    return clients


def stop_over_a_while(graced: Graced, hear: Callable[[Client], object]) -> None:
    """Stop; each client hears of it in its turn, and departs."""
    with ExitStack() as stack:
        clients = connected(graced, stack)
        began = monotonic()
        graced.signal(SIGTERM)
        times = []
        for client, when in news(clients):
            hear(client)
            client.close()
            times.append(when - began)
        assert times[-1] - times[0] > APART * SPREAD
        assert times[-1] < SPREAD + 2 * MACHINE
        # Nobody waits for the grace period.
        assert graced.wait() == 0
        assert graced.stopped[1:] == (CLIENTS, 0)


def test_clients_are_told_over_a_while(handler: str, address: str) -> None:
    with Graced("--handler", handler, listen=address, config=CONFIG) as graced:
        stop_over_a_while(graced, Client.expect_farewell_alone)


@pytest.mark.parametrize("kind", WITHOUT_FAREWELL.values(), ids=list(WITHOUT_FAREWELL))
def test_end_of_file_comes_over_a_while(kind: str) -> None:
    with Graced("--handler", kind, config=CONFIG) as graced:
        stop_over_a_while(graced, Client.expect_end)


def test_clients_are_served_until_their_turn(handler: str, address: str) -> None:
    """And after it."""
    with (
        Graced("--handler", handler, listen=address, config=CONFIG) as graced,
        ExitStack() as stack,
    ):
        clients = connected(graced, stack)
        graced.signal(SIGTERM)
        first, _ = next(news(clients))
        first.expect_farewell_alone()
        others = [client for client in clients if client is not first]
        for client in others:
            client.send(b"again")
        for client in others:
            # As they wait here, both may have come when they are read.
            heard = client.recv_exactly(len(b"again" + FAREWELL))
            assert heard in {b"again" + FAREWELL, FAREWELL + b"again"}
        for client in clients:
            client.echo(b"as before")
            client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (CLIENTS, 0)


def test_client_that_talks_all_the_time_is_told_in_its_turn(handler: str) -> None:
    with Graced("--handler", handler, config=CONFIG) as graced, graced.connect() as client:
        talk_until_told(graced, client)


def test_client_that_does_not_read_delays_no_turn() -> None:
    with (
        Graced(config=CONFIG) as graced,
        graced.connect(receive_buffer=4096) as stuck,
        graced.served() as other,
    ):
        sent = stuck.send_until_full()
        graced.signal(SIGTERM)
        other.expect_farewell_alone()
        other.close()
        # What it has sent and what has not arrived is echoed after the farewell.
        heard = stuck.recv_exactly(sent + len(FAREWELL))
        assert heard.replace(FAREWELL, b"", 1) == b"x" * sent
        stuck.close()
        assert graced.wait() == 0


def test_clients_whose_turn_is_to_come_are_told_at_the_deadline(handler: str, address: str) -> None:
    config = "[shutdown]\nfarewell_spread = 3599\ngrace_period = 3600\n"
    with (
        Graced("--handler", handler, listen=address, config=config) as graced,
        ExitStack() as stack,
    ):
        clients = connected(graced, stack)
        graced.signal(SIGTERM)
        graced.log.wait_for("telling 16 clients")
        graced.signal(SIGINT)
        for client in clients:
            assert client.recv_to_end() == FAREWELL
        assert graced.wait() == 0


def test_turns_end_before_a_short_rest_of_the_grace_period() -> None:
    """A quarter of it is left to the last."""
    config = "[shutdown]\nfarewell_spread = 1.9\ngrace_period = 2\n"
    with Graced(config=config) as graced, ExitStack() as stack:
        clients = connected(graced, stack)
        began = monotonic()
        graced.signal(SIGTERM)
        for client, when in news(clients):
            client.expect_farewell_alone()
            assert when - began < 1.5 + 0.4
        assert graced.wait() == 0
        assert graced.stopped[1:] == (0, CLIENTS)


def test_empty_farewell_is_said_in_no_turn() -> None:
    config = "[shutdown]\nfarewell = ''\nfarewell_spread = 0.5\ngrace_period = 1.5\n"
    with Graced(config=config) as graced, graced.served() as client:
        graced.signal(SIGTERM)
        began = monotonic()
        while monotonic() < began + 0.5 + MOMENT:
            client.echo(b"hello")
        assert client.recv_to_end() == b""
        assert graced.wait() == 0


@pytest.mark.parametrize("options", [(), ("--check-config",)], ids=["start", "check"])
def test_spread_as_long_as_the_grace_period_is_refused(
    options: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("etc") / "graced.toml"
    file.write_text("[shutdown]\nfarewell_spread = 5\n")
    done = run_graced("--config", str(file), *options)
    assert done.returncode == 78
    assert (
        f"{file}: shutdown.farewell_spread must be shorter than shutdown.grace_period,"
        " which is 5 s (default), not 5"
    ) in done.stderr
