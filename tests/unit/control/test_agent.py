"""The agent: one line for each check, whatever others do."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.control import agent
from graced.control.agent import MAX_PARTING, MAX_PER_SECOND, Agent, answer
from graced.log import events
from graced.process.lifecycle import State
from support import MACHINE
from support.agent import ask, read

LINE = b"up ready 75%\n"


@pytest.mark.parametrize(
    ("clients", "most", "percent"),
    [(0, 100, 100), (1, 100, 99), (25, 100, 75), (4095, 4096, 1), (4096, 4096, 0), (5, 1, 0)],
)
@pytest.mark.parametrize("state", [State.SERVING, State.HANDING_OVER])
def test_weight_is_what_is_free(state: State, clients: int, most: int, percent: int) -> None:
    assert answer(state, clients, most) == f"up ready {percent}%\n".encode()


@pytest.mark.parametrize(
    ("state", "line"),
    [
        (State.LAME_DUCK, b"drain\n"),
        (State.DRAINING, b"drain\n"),
        (State.CLOSING, b"stopped\n"),
        (State.STOPPED, b"stopped\n"),
    ],
)
def test_service_that_stops_wants_no_clients(state: State, line: bytes) -> None:
    assert answer(state, 1, 100) == line


@given(st.sampled_from(State), st.integers(0, 2_000_000), st.integers(1, 1_000_000))
def test_answer_is_a_line_that_haproxy_knows(state: State, clients: int, most: int) -> None:
    *words, end = answer(state, clients, most).decode().partition("\n")[0].split(" ")
    if words:
        assert words == ["up", "ready"]
        assert 0 <= int(end.removesuffix("%")) <= 100
    else:
        assert end in {"drain", "stopped"}


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as sock:
        sock.setblocking(False)
        yield sock


@pytest.fixture
def port(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


@pytest.fixture
def serve(listener: socket.socket) -> Iterator[Callable[[], Agent]]:
    with ExitStack() as stack:

        def serve() -> Agent:
            found = Agent([listener], lambda: LINE)
            stack.callback(found.stop)
            found.start()
            return found

        yield serve


def test_check_that_sends_words_gets_its_line(serve: Callable[[], Agent], port: int) -> None:
    serve()
    assert ask(port) == LINE
    assert ask(port, b"kitchen\n") == LINE


def test_words_before_the_answer_do_not_destroy_it(serve: Callable[[], Agent], port: int) -> None:
    """They are unread when the line is sent; a close would reset the connection."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"kitchen\n")
        serve()
        assert read(sock) == LINE


def test_silent_peers_keep_nobody_waiting(serve: Callable[[], Agent], port: int) -> None:
    serve()
    with ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            for _ in range(MAX_PARTING + 5)
        ]
        assert ask(port) == LINE
        for sock in idle:
            assert read(sock) == LINE


@given(st.binary(max_size=20_000))
def test_whatever_is_sent_means_nothing(data: bytes) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.setblocking(False)
        found = Agent([listener], lambda: LINE)
        stack.callback(found.stop)
        found.start()
        port = listener.getsockname()[1]
        with (
            socket.create_connection(("127.0.0.1", port)) as sock,
            # More than a check says is cut off.
            suppress(ConnectionError),
        ):
            sock.sendall(data)
            assert LINE.startswith(read(sock))
        assert ask(port) == LINE


def test_storm_is_answered_at_a_bounded_rate(serve: Callable[[], Agent], port: int) -> None:
    serve()
    began = monotonic()
    for _ in range(2 * MAX_PER_SECOND + 1):
        assert ask(port) == LINE
    assert 1.9 < monotonic() - began < 3 + MACHINE


def test_line_that_nobody_takes_ends_nothing(serve: Callable[[], Agent], port: int) -> None:
    serve()
    for _ in range(10):
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert ask(port) == LINE


def test_failure_is_said_once_and_tried_again(
    listener: socket.socket, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        """A listener for which there is no descriptor, twice."""

        def __init__(self) -> None:
            self.failures = 2

        def fileno(self) -> int:
            return listener.fileno()

        def accept(self) -> tuple[socket.socket, object]:
            if self.failures:
                self.failures -= 1
                raise OSError(24, "Too many open files")
            return listener.accept()

    said: list[object] = []

    def say(*, reason: object) -> None:
        said.append(reason)

    monkeypatch.setattr(agent, "PAUSE", 0.01)
    monkeypatch.setattr(events, "AGENT_FAILED", say)
    found = Agent([Failing()], lambda: LINE)  # type: ignore[list-item]
    try:
        found.start()
        assert ask(port) == LINE
    finally:
        found.stop()
    assert said == ["Too many open files"]


def test_agent_that_was_never_started_can_be_stopped(listener: socket.socket) -> None:
    Agent([listener], lambda: LINE).stop()
