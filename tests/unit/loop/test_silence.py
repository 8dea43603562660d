"""Clients that say nothing, while nobody knows whether their handler speaks first."""

from __future__ import annotations

from collections.abc import Iterator
from select import EPOLLIN

import pytest

from graced.loop.phase import AWAITING_FIRST_BYTE
from graced.loop.silence import SILENCE, TRIAL_INTERVAL, TRIALS
from loop.scene import Handlers, LoopClient, MakeParts, Parts

Place = tuple[Parts, Handlers]


@pytest.fixture
def place(make_parts: MakeParts) -> Iterator[Place]:
    """Parts of an I/O thread whose handlers nobody knows."""
    handlers = Handlers(greet=None)
    yield make_parts(handlers=handlers), handlers
    while not handlers.taken.empty():
        handlers.taken.get().sock.close()


def come(place: Place) -> LoopClient:
    """A client that says nothing."""
    parts, _ = place
    client, _ = parts.connect()
    parts.silence.expect(client)
    return client


def look(place: Place, after: float) -> list[LoopClient]:
    """The clients whose handler starts when so much time has passed."""
    parts, handlers = place
    for source in parts.pass_time(after):
        parts.silence.start_handler(source)
    return [handlers.taken.get() for _ in range(handlers.taken.qsize())]


def test_client_that_has_been_silent_for_long_gets_its_handler(place: Place) -> None:
    client = come(place)
    assert look(place, SILENCE - 0.1) == []
    assert look(place, 0.1) == [client]


def test_few_clients_are_tried_one_after_the_other(place: Place) -> None:
    clients = [come(place) for _ in range(TRIALS + 2)]
    assert look(place, SILENCE) == clients[:1]
    for client in clients[1:TRIALS]:
        assert look(place, TRIAL_INTERVAL) == [client]
    for _ in clients[TRIALS:]:
        come(place)
        assert look(place, 10 * SILENCE) == []


def test_client_that_has_spoken_is_none_of_them(place: Place) -> None:
    parts, handlers = place
    talking, silent = come(place), come(place)
    silent.since += 1.0
    parts.clients.start_handler(talking, EPOLLIN)
    assert handlers.taken.get() is talking
    assert look(place, SILENCE) == []
    assert look(place, 1.0) == [silent]


def test_nobody_is_tried_where_the_handler_reads_first(place: Place) -> None:
    parts, handlers = place
    come(place)
    handlers.greet = False
    assert look(place, 10 * SILENCE) == []
    come(place)
    assert parts.pass_time(10 * SILENCE) == []


def test_all_get_their_handler_where_it_is_known_to_speak_first(place: Place) -> None:
    _, handlers = place
    clients = [come(place) for _ in range(4)]
    assert look(place, SILENCE) == clients[:1]
    handlers.greet = True
    assert look(place, TRIAL_INTERVAL) == clients[1:]


def test_client_goes_on_waiting_for_its_first_byte_without_a_free_thread(place: Place) -> None:
    _, handlers = place
    client = come(place)
    handlers.free = 0
    assert look(place, SILENCE) == []
    assert client.phase == AWAITING_FIRST_BYTE


def test_without_unknown_handlers_there_is_no_timer(make_parts: MakeParts) -> None:
    for handlers in (Handlers(), Handlers(greet=True)):
        parts = make_parts(handlers=handlers)
        parts.silence.expect(parts.connect()[0])
        assert parts.pass_time(SILENCE) == []
