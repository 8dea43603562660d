"""Nobody goes on before the state of all is restored."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from graced.handlers import restoring
from graced.handlers.handler_socket import HandlerSocket
from graced.handlers.restoring import Restoring, Together
from graced.handlers.session import Session
from graced.loop.client import Client
from graced.loop.phase import AWAITING_FIRST_BYTE
from support import PATIENCE

New = Callable[[], tuple[Session, socket.socket]]


@pytest.fixture
def new() -> Iterator[New]:
    with ExitStack() as stack:

        def new() -> tuple[Session, socket.socket]:
            ours, theirs = map(stack.enter_context, socket.socketpair())
            request = stack.enter_context(HandlerSocket(ours, None, 0.0, told=False))
            theirs.settimeout(PATIENCE)
            client = Client(request, "host", 1, AWAITING_FIRST_BYTE, 0.0)
            return Session(client, request), theirs

        yield new


class Run(threading.Thread):
    """The handler of a client that has come back."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.request = session.ours
        self.start()

    def run(self) -> None:
        assert self.request
        self.request.sendall(b"unheard")
        self.request.await_the_others()
        self.request.sendall(b"heard")


def test_handlers_go_on_together(new: New) -> None:
    order: list[str] = []
    all_back = Restoring(lambda: order.append("restored"))
    (one, its_client), (two, other_client) = new(), new()
    all_back.begin()
    all_back.add(one)
    first = Run(one)
    all_back.add(two)
    stranger = threading.Thread(target=all_back.wait)
    stranger.start()
    all_back.all_started()
    assert first.is_alive()
    assert order == []
    second = Run(two)
    for thread in (first, second, stranger):
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert its_client.recv(100) == other_client.recv(100) == b"heard"
    assert order == ["restored"]
    all_back.wait()


def test_handler_that_has_ended_is_not_waited_for(new: New) -> None:
    all_back = Restoring(lambda: None)
    (one, its_client), (two, _) = new(), new()
    all_back.begin()
    for session in (one, two):
        all_back.add(session)
    all_back.all_started()
    first = Run(one)
    all_back.discard(two)
    first.join(PATIENCE)
    assert its_client.recv(100) == b"heard"
    all_back.discard(one)


def test_restore_that_does_not_return(
    new: New, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(restoring, "TIMEOUT", 0.1)
    all_back = Restoring(lambda: None)
    (one, its_client), (two, other_client) = new(), new()
    all_back.begin()
    for session in (one, two):
        all_back.add(session)
    all_back.all_started()
    Run(one).join(PATIENCE)
    assert its_client.recv(100) == b"heard"
    assert "1 handler without its state" in caplog.text
    # Its client is heard when it is back at last.
    Run(two).join(PATIENCE)
    assert other_client.recv(100) == b"heard"


def test_client_that_is_started_once_more(new: New) -> None:
    """After a handover that has given up waiting for its handler."""
    all_back = Restoring(lambda: None)
    session, peer = new()
    all_back.add(session)
    Run(session).join(PATIENCE)
    assert peer.recv(100) == b"heard"


def test_hook_that_does_not_return(
    new: New, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(restoring, "TIMEOUT", 0.1)
    gate = threading.Event()

    def wait() -> None:
        gate.wait()

    all_back = Restoring(wait)
    session, peer = new()
    all_back.begin()
    all_back.add(session)
    run = Run(session)
    # The main thread does not wait for the hook.
    all_back.all_started()
    stranger = threading.Thread(target=all_back.wait)
    stranger.start()
    for thread in (run, stranger):
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert peer.recv(100) == b"heard"
    assert caplog.text.count("the hook restored of the handler has failed: it has not") == 1
    gate.set()
    for thread in threading.enumerate():
        if thread.name == "restored":
            thread.join(PATIENCE)


@pytest.mark.parametrize("starts", [True, False])
def test_hook_is_called_before_anybody_goes_on(
    new: New, monkeypatch: pytest.MonkeyPatch, starts: bool
) -> None:
    """Also where no thread can be started for the hook."""
    session, peer = new()
    all_back = Restoring(lambda: session.request.sendall(b"all are back, "))
    all_back.begin()
    all_back.add(session)
    run = Run(session)
    with monkeypatch.context() as patch:
        if not starts:

            def start(_self: object) -> None:
                raise RuntimeError("can't start new thread")

            patch.setattr(threading.Thread, "start", start)
        all_back.all_started()
        run.join(PATIENCE)
    assert peer.recv(100) == b"all are back, heard"


def test_nobody_comes() -> None:
    called: list[str] = []
    all_back = Restoring(lambda: called.append("restored"))
    all_back.wait()
    all_back.begin()
    all_back.all_started()
    all_back.wait()
    assert not called


def test_muted_socket_sends_nothing_and_is_not_read(new: New) -> None:
    session, peer = new()
    request = session.ours
    assert request
    request.mute()
    assert request.send(b"hello") == 5
    assert request.sendmsg([b"hello", b"you"]) == 8
    with open(__file__, "rb") as file:
        assert request.sendfile(file, count=10) == 10
    with pytest.raises(RuntimeError, match="must not read"):
        request.recv(1)
    request.unmute()
    request.sendall(b"now")
    assert peer.recv(100) == b"now"


def test_methods_that_were_kept_while_mute_send_later(new: New) -> None:
    """``self.write = self.request.sendall`` in `setup`."""
    session, peer = new()
    request = session.ours
    assert request
    request.mute()
    sendall, send, sendmsg, sendfile = (
        request.sendall,
        request.send,
        request.sendmsg,
        request.sendfile,
    )
    sendall(b"unheard")
    request.unmute()
    sendall(b"one, ")
    assert send(b"two, ") == 5
    assert sendmsg([b"three", b", "]) == 7
    with open(__file__, "rb") as file:
        assert sendfile(file, 0, 3) == 3
    assert peer.recv(100) == b'one, two, three, """'


def test_io_threads_go_on_together() -> None:
    called: list[str] = []
    together = Together(2, lambda: called.append("restored"))
    first = threading.Thread(target=together.go_on)
    first.start()
    assert not called
    together.go_on()
    first.join(PATIENCE)
    assert not first.is_alive()
    assert called == ["restored"]


def test_io_thread_that_restores_for_too_long_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(restoring, "TIMEOUT", 0.01)
    called: list[str] = []
    together = Together(2, lambda: called.append("restored"))
    together.go_on()
    assert not called
    together.go_on()
    assert called == ["restored"]
