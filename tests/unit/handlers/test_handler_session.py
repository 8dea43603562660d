"""What is seen of a handler before a handover."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from graced.handlers.handler_socket import HandlerSocket
from graced.handlers.session import BUSY_AFTER, Session
from graced.loop.client import Client
from graced.loop.phase import AWAITING_FIRST_BYTE
from graced.signals import NUDGE
from graced.sockets.timeout import set_timeout
from support import PATIENCE


@pytest.fixture
def pair() -> Iterator[tuple[Session, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    request = HandlerSocket(ours, None, 0.0, told=False)
    client = Client(request, "host", 1, AWAITING_FIRST_BYTE, 0.0)
    with request, theirs:
        yield Session(client, request), theirs


def wait_until_quiet(session: Session) -> None:
    """Until the kernel itself says that nothing has moved for so long."""
    pause = threading.Event()
    while session.request.silence < BUSY_AFTER:  # type: ignore[attr-defined]
        pause.wait(0.01)


def test_handler_in_a_read_is_not_busy(pair: tuple[Session, socket.socket]) -> None:
    session, theirs = pair
    gate, at_work = threading.Event(), threading.Event()

    def handle() -> None:
        session.request.recv(1)
        at_work.set()
        gate.wait(PATIENCE)

    thread = threading.Thread(target=handle)
    thread.start()
    assert thread.ident
    session.thread, session.ours.thread = thread.ident, thread  # type: ignore[union-attr]
    wait_until_quiet(session)
    while session.is_busy:
        # The thread may not have come to its read yet.
        assert thread.is_alive()
    theirs.send(b"?")
    assert at_work.wait(PATIENCE)
    assert not session.is_busy, "for a moment, no handler is"
    wait_until_quiet(session)
    assert session.is_busy
    gate.set()
    thread.join()


def test_session_without_a_thread_is_not_busy(pair: tuple[Session, socket.socket]) -> None:
    session, _ = pair
    wait_until_quiet(session)
    assert not session.is_busy
    session.nudge()


def test_socket_of_a_program_is_left_alone() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        session = Session(Client(ours, "host", 1, AWAITING_FIRST_BYTE, 0.0), ours)
        session.thread = threading.get_ident()
        session.freeze()
        seen = (session.is_busy, session.is_frozen, session.is_saved, session.thaw())
        assert not any(seen)
        assert session.tell_at_deadline()
        assert session.blocks
        client = session.reclaim()
        client.sock.send(b"still there")
        client.sock.close()
        assert theirs.recv(100) == b"still there"


def test_nudge_interrupts_a_read(pair: tuple[Session, socket.socket]) -> None:
    session, _ = pair
    before = signal.signal(NUDGE, lambda _signum, _frame: None)
    found: list[type[BaseException]] = []

    def handle() -> None:
        try:
            session.request.recv(1)
        except BlockingIOError as error:
            found.append(type(error))

    thread = threading.Thread(target=handle)
    try:
        thread.start()
        assert thread.ident
        session.thread, session.ours.thread = thread.ident, thread  # type: ignore[union-attr]
        while not session.ours.handler_waits:  # type: ignore[union-attr]
            assert thread.is_alive()
        set_timeout(session.request, socket.SO_RCVTIMEO, 0.000_001)
        session.nudge()
        thread.join(PATIENCE)
    finally:
        signal.signal(NUDGE, before)
    assert found == [BlockingIOError]
