"""Whether the handlers speak first, as the first call of one shows."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from graced.handlers.greeting import Greeting
from graced.handlers.handler_socket import DirectSocket, HandlerSocket
from handlers.pair import Make, Pair, Running
from handlers.scene import Stage, connect_by_tcp
from support.attempts import attempts

NAME = "module:Banner"


def by_file(request: HandlerSocket) -> None:
    with request.makefile("rb") as file:
        file.readline()


def by_empty_write(request: HandlerSocket) -> None:
    request.sendall(b"")
    request.recv(1)


def by_message(request: HandlerSocket) -> None:
    request.sendmsg([b"220 ", b"hello\n"])


def by_kept_method(request: HandlerSocket) -> None:
    send = request.sendall
    send(b"220 hello\n")
    send(b"and more\n")


@pytest.mark.parametrize(
    ("handle", "greets"),
    [
        (lambda request: request.recv(1), False),
        (by_file, False),
        (by_empty_write, False),
        (lambda request: request.sendall(b"220 hello\n"), True),
        (by_message, True),
        (by_kept_method, True),
    ],
)
def test_first_call_shows_it(
    make: Make,
    handle: Callable[[HandlerSocket], None],
    greets: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pair, greeting = make(None), Greeting(None, NAME)
    before = type(pair.handler)
    greeting.watch(pair.handler)
    with Running(pair, handle):
        if not greets:
            pair.client.send(b"\n")
        else:
            assert pair.client.recv_exactly(10) == b"220 hello\n"
        for _ in attempts("the handler has done something"):
            if greeting.known is not None:
                break
    assert greeting.known is greets
    assert type(pair.handler) is before
    assert caplog.text.count("the handler module:Banner speaks first") == greets


def test_words_of_another_thread_are_none_of_the_handler(make: Make) -> None:
    """In a chat the handlers of others write to a client, before its own has done anything."""
    pair, greeting = make(None), Greeting(None, NAME)
    greeting.watch(pair.handler)
    go_on = threading.Event()

    def handle(request: HandlerSocket) -> None:
        go_on.wait()
        request.recv(1)

    with Running(pair, handle) as running:
        running.wait_until_asleep()
        pair.handler.sendall(b"somebody comes\n")
        assert greeting.known is None
        go_on.set()
        pair.client.send(b"x")
        for _ in attempts("the handler has read"):
            if greeting.known is not None:
                break
    assert greeting.known is False


def test_handler_whose_client_has_spoken_shows_nothing(make: Make) -> None:
    pair, greeting = make(None), Greeting(None, NAME)
    pair.client.send(b"x")
    expect_nothing(greeting, pair)


def test_handler_whose_client_has_gone_shows_nothing(make: Make) -> None:
    pair, greeting = make(None), Greeting(None, NAME)
    pair.client.finish()
    expect_nothing(greeting, pair)


def expect_nothing(greeting: Greeting, pair: Pair) -> None:
    greeting.watch(pair.handler)
    with Running(pair, by_message):
        assert pair.client.recv_exactly(10) == b"220 hello\n"
    assert greeting.known is None


def test_calls_are_noted_if_the_drain_began_in_the_meantime(make: Make) -> None:
    pair, greeting = make(None), Greeting(None, NAME)
    greeting.watch(pair.handler)
    pair.handler.begin_drain()
    with Running(pair, by_message):
        assert pair.client.recv_exactly(10) == b"220 hello\n"
    assert greeting.known is True
    assert type(pair.handler) is HandlerSocket


def test_nothing_is_tried_before_a_handover(stage: Stage) -> None:
    scene = stage(lambda request, _: by_message(request), greet=Greeting(None, NAME))
    scene.pool.settle(0.0)
    assert connect_by_tcp(scene).recv_to_end() == b"220 hello\n"
    assert scene.pool.greet is False


def test_pool_learns_from_its_first_silent_client(stage: Stage) -> None:
    types = []

    def run(request: HandlerSocket, _address: object) -> None:
        request.sendall(b"220 hello\n")
        types.append(type(request))

    scene = stage(run, greet=Greeting(None, NAME))
    assert scene.pool.greet is None
    for _ in range(2):
        assert connect_by_tcp(scene).recv_to_end() == b"220 hello\n"
    assert scene.pool.greet is True
    assert types == [DirectSocket, DirectSocket]
