"""The hot loop, with real sockets and without the rest of the server."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from socket import MSG_OOB
from typing import Any

import pytest

import graced.loop.client
from graced.log import events
from graced.loop import acceptor
from graced.loop import clients as clients_module
from graced.loop.admission import Admission
from graced.loop.clients import BUFFER_SIZE, SMALL_READ
from graced.loop.io_thread import IOThread
from graced.loop.policy import Policy
from graced.sockets import listener
from graced.sockets.address import Address
from support import FAREWELL, PATIENCE, Client

Make = Callable[..., "Scene"]


class Handlers:
    """Take clients, and do no more with them."""

    movable = False

    def __init__(self, *, greet: bool = False) -> None:
        self.greet = greet
        self.taken: SimpleQueue[graced.loop.client.Client] = SimpleQueue()
        self.take = self.taken.put

    def remind(self) -> None: ...

    def close_idle(self, _timeout: float) -> float:
        return 0.0


class Scene:
    """A thread that serves one port."""

    def __init__(
        self, address: str, limit: int, policy: Policy, accept: Any, handlers: Handlers | None
    ) -> None:
        (self.port,) = listener.bind([Address.parse(address)], 100)
        if accept:
            wrapped = self.port.accept
            self.port.accept = lambda: accept(wrapped)  # type: ignore[method-assign]
        self.changes = threading.Semaphore(0)
        self.admission = Admission(limit, 0)
        self.thread = IOThread(
            [self.port], self.admission, policy, handlers=handlers, changed=self.changes.release
        )

    def connect(self) -> Client:
        return Client.connect(self.port.name)

    def changed(self) -> None:
        """Wait for a change."""
        assert self.changes.acquire(timeout=PATIENCE)

    def do(self, action: Callable[[], Any]) -> Any:
        """Have the thread do something, and wait for the result."""
        results: list[Any] = []
        done = threading.Event()

        def run() -> None:
            results.append(action())
            done.set()

        self.thread.post(run)
        assert done.wait(PATIENCE)
        return results[0]

    def freeze(self) -> list[graced.loop.client.Client]:
        taken: SimpleQueue[list[graced.loop.client.Client]] = SimpleQueue()
        self.thread.freeze(taken.put)
        return taken.get(timeout=PATIENCE)

    def adopt(self, clients: list[graced.loop.client.Client]) -> None:
        done = threading.Event()
        self.thread.adopt(clients, done.set)
        assert done.wait(PATIENCE)

    def finish(self) -> None:
        self.thread.finish()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


@pytest.fixture
def make() -> Iterator[Make]:
    scenes: list[Scene] = []

    def make(
        address: str = "127.0.0.1:0",
        limit: int = 100,
        accept: Callable[[Callable[[], Any]], Any] | None = None,
        handlers: Handlers | None = None,
        **policy: Any,
    ) -> Scene:
        scene = Scene(address, limit, Policy(**policy), accept, handlers)
        scenes.append(scene)
        scene.thread.start()
        return scene

    yield make
    for scene in scenes:
        scene.finish()
        scene.thread.close()
        scene.port.close()


def test_bytes_and_clients_are_counted(make: Make) -> None:
    scene = make()
    with scene.connect() as one, scene.connect() as two:
        one.echo(b"hello")
        two.echo(b"you")
        assert scene.do(lambda: scene.thread.echoed) == 8
        assert scene.admission.clients == 2
        scene.thread.drain()
        scene.changed()
        assert scene.thread.draining
        for client in (one, two):
            client.expect_farewell_alone()
        one.close()
        scene.finish()
        two.expect_end()
    assert (scene.thread.departed, scene.thread.closed) == (1, 1)
    assert scene.admission.clients == 0


def test_what_is_posted_is_done_in_order(make: Make) -> None:
    scene = make()
    done: list[int] = []
    for number in range(1000):
        scene.thread.post(lambda number=number: done.append(number))  # type: ignore[misc]
    scene.do(lambda: None)
    assert done == list(range(1000))


def test_a_probe_is_answered(make: Make) -> None:
    scene = make()
    scene.thread.probe(7)
    scene.changed()
    assert scene.thread.answered == 7


def test_the_next_move_is_reported_once(make: Make) -> None:
    scene = make()
    with scene.connect() as client:
        client.echo(b"hello")
        scene.thread.report_next_activity()
        for _ in range(10):
            client.echo(b"hello")
        scene.changed()
        assert not scene.changes.acquire(blocking=False)
        scene.thread.report_next_activity()
    scene.changed()


def test_a_failure_is_kept_and_reported_and_the_clients_are_closed(make: Make) -> None:
    scene = make()
    with scene.connect() as client:
        client.echo(b"hello")

        def fail() -> None:
            raise LookupError("as expected")

        scene.thread.post(fail)
        scene.changed()
        client.expect_end()
    scene.thread.join(PATIENCE)
    assert isinstance(scene.thread.failure, LookupError)


def failing(*codes: int) -> Callable[[Callable[[], Any]], Any]:
    """An accept that fails so before it succeeds."""
    left = list(codes)

    def accept(wrapped: Callable[[], Any]) -> Any:
        if left:
            code = left.pop(0)
            raise OSError(code, os.strerror(code))
        return wrapped()

    return accept


@pytest.mark.parametrize("code", sorted({errno.ECONNABORTED, errno.EPROTO, errno.EHOSTUNREACH}))
def test_a_client_that_is_lost_on_the_way_is_no_matter(make: Make, code: int) -> None:
    with make(accept=failing(code, code)).connect() as client:
        client.echo(b"hello")


@pytest.mark.parametrize("code", sorted({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}))
def test_where_there_is_no_room_it_waits_and_tries_again(
    make: Make, code: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "ACCEPT_PAUSE", 0.01)
    caplog.set_level(logging.INFO, "graced")
    scene = make(accept=failing(code, code, code))
    with scene.connect() as client:
        client.echo(b"hello")
    texts = [record.getMessage() for record in caplog.records if "accept" in record.getMessage()]
    assert texts == [
        f"cannot accept clients ({os.strerror(code)}), trying again every 0.01 s",
        "accepting clients again",
    ]


def test_what_cannot_happen_is_a_failure(make: Make) -> None:
    scene = make(accept=failing(errno.EBADF))
    with scene.connect():
        scene.changed()
    assert isinstance(scene.thread.failure, OSError)


def test_bytes_that_are_owed_are_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients_module, "UNSENT_BUDGET", 1)
    scene = make()
    thread = scene.thread
    with scene.connect() as deaf:
        assert scene.do(lambda: len(thread._clients.view)) == BUFFER_SIZE
        sent = deaf.send_until_full()
        while not scene.do(lambda: thread._clients._unsent):
            sent += deaf.send_until_full()
        assert scene.do(lambda: len(thread._clients.view)) == SMALL_READ
        assert scene.do(lambda: thread._clients._unsent) <= BUFFER_SIZE
        with scene.connect() as client:
            client.echo(b"x" * 3 * SMALL_READ)
        deaf.recv_exactly(sent)
        assert scene.do(lambda: thread._clients._unsent) == 0
        assert scene.do(lambda: len(thread._clients.view)) == BUFFER_SIZE
    with scene.connect() as client:
        client.echo(b"hello")


def test_what_is_owed_to_one_that_leaves_is_forgotten(make: Make) -> None:
    scene = make()
    with scene.connect() as deaf:
        deaf.send_until_full()
        while not scene.do(lambda: scene.thread._clients._unsent):
            deaf.send_until_full()
        scene.thread.report_next_activity()
        deaf.reset()
    scene.changed()
    assert scene.do(lambda: scene.thread._clients._unsent) == 0


def test_refused_clients_linger_in_bounded_numbers(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "MAX_LINGERING", 2)
    scene = make(limit=0)
    clients = [scene.connect() for _ in range(5)]
    heard = []
    for client in clients:
        heard.append(client.recv_to_end())
    assert heard == [FAREWELL, FAREWELL, b"", b"", b""]
    for client in clients:
        client.close()


def test_a_refused_client_that_does_not_close_is_closed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "LINGER_TIMEOUT", 0.05)
    scene = make(limit=0)
    with scene.connect() as client:
        assert client.recv_to_end() == FAREWELL
        with pytest.raises(ConnectionError):
            client.send(b"still here" * 10_000_000)


@pytest.mark.parametrize("kind", ["127.0.0.1:0", "[::1]:0", "unix"])
def test_how_a_client_is_called(
    make: Make, kind: str, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "graced")
    scene = make(f"unix:{tmp_path}/socket" if kind == "unix" else kind)
    with scene.connect() as client:
        client.echo(b"hello")
        name = f"unix:{tmp_path}/socket#1" if kind == "unix" else client.name
    assert f"connection from {name}" in [record.getMessage() for record in caplog.records]


def test_it_ends_at_once_when_nobody_is_there(make: Make) -> None:
    scene = make()
    scene.finish()
    scene.changed()
    assert scene.thread.failure is None


# Clients move on.


def deafen(scene: Scene, client: Client) -> int:
    """Have the thread owe something to a client; return how many bytes will come back."""
    sent = client.send_until_full()
    while not scene.do(lambda: scene.thread._clients._unsent):
        sent += client.send_until_full()
    return sent


SAME = pytest.mark.parametrize("same", [True, False], ids=["same thread", "another"])


def closings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.msg is events.CLOSED]


@SAME
def test_who_is_frozen_is_not_served_until_adopted_and_loses_nothing(
    make: Make, same: bool
) -> None:
    scene = make()
    with scene.connect() as one, scene.connect() as two:
        one.echo(b"hello")
        two.echo(b"hello, you")
        frozen = scene.freeze()
        assert {str(client): client.echoed for client in frozen} == {one.name: 5, two.name: 10}
        assert scene.admission.clients == 0
        one.send(b"meanwhile")
        assert scene.do(lambda: scene.thread.echoed) == 15
        then = scene if same else make()
        then.adopt(frozen)
        assert then.admission.clients == 2
        assert one.recv_exactly(9) == b"meanwhile"
        two.echo(b"again")
        assert then.do(lambda: {client.echoed for client in frozen}) == {14, 15}
        then.thread.drain()
        for client in (one, two):
            client.expect_farewell_alone()


@SAME
def test_what_is_owed_is_owed_by_the_next(make: Make, same: bool) -> None:
    scene = make()
    with scene.connect() as deaf:
        sent = deafen(scene, deaf)
        frozen = scene.freeze()
        assert scene.do(lambda: scene.thread._clients._unsent) == 0
        assert frozen[0].unsent
        then = scene if same else make()
        then.adopt(frozen)
        assert then.do(lambda: then.thread._clients._unsent) == len(frozen[0].unsent)
        deaf.recv_exactly(sent)
        deaf.echo(b"and on")
        assert then.do(lambda: (then.thread._clients._unsent, frozen[0].echoed)) == (0, sent + 6)


def test_what_was_owed_to_one_that_is_turned_away_does_not_count(make: Make) -> None:
    scene = make()
    with scene.connect() as deaf:
        deafen(scene, deaf)
        (client,) = scene.freeze()
        then = make(limit=0)
        then.adopt([client])
        assert then.do(lambda: then.thread._clients._unsent) == 0
        then.finish()
        assert then.thread._clients._unsent == 0
        assert scene.do(lambda: scene.thread._clients._unsent) == 0


@pytest.mark.parametrize("meanwhile", [True, False])
def test_one_that_waits_for_its_handler_waits_on(make: Make, meanwhile: bool) -> None:
    handlers = Handlers()
    scene, then = make(handlers=Handlers()), make(handlers=handlers)
    with scene.connect() as client:
        while not scene.admission.clients:
            scene.do(lambda: None)
        frozen = scene.freeze()
        if meanwhile:
            client.send(b"hello")
        then.adopt(frozen)
        if not meanwhile:
            assert handlers.taken.empty()
            client.send(b"hello")
        taken = handlers.taken.get(timeout=PATIENCE)
        assert [taken] == frozen
        assert taken.address == client.sock.getsockname()
        assert taken.sock.recv(5) == b"hello"
        taken.sock.close()


def test_one_that_a_handler_talks_to_stays(make: Make) -> None:
    handlers = Handlers()
    scene = make(handlers=handlers)
    with scene.connect() as client:
        client.send(b"hello")
        taken = handlers.taken.get(timeout=PATIENCE)
        assert scene.freeze() == []
        assert scene.admission.clients == 1
        taken.sock.close()


def test_a_handler_that_greets_takes_who_comes_at_once(make: Make) -> None:
    scene = make()
    with scene.connect() as client:
        client.echo(b"hello")
        handlers = Handlers(greet=True)
        then = make(handlers=handlers)
        then.adopt(scene.freeze())
        taken = handlers.taken.get(timeout=PATIENCE)
        assert taken.address == client.sock.getsockname()
        taken.sock.close()


def test_who_comes_after_the_freeze_waits_for_the_next_process(make: Make) -> None:
    scene = make()
    scene.freeze()
    with scene.connect() as client:
        client.send(b"hello")
        assert scene.do(lambda: scene.admission.admitted) == 0
        scene.port.sock.setblocking(True)
        sock, _ = scene.port.accept()
        with sock:
            assert sock.recv(5) == b"hello"


def test_a_second_freeze_and_a_drain_find_nobody(make: Make) -> None:
    scene = make()
    with scene.connect() as client:
        client.echo(b"hello")
        for frozen in scene.freeze():
            frozen.sock.close()
        assert scene.freeze() == []
        scene.thread.drain()
        scene.changed()
        scene.finish()
    assert (scene.thread.departed, scene.thread.closed) == (0, 0)


def test_one_that_leaves_meanwhile_is_found_to_have_left(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "graced")
    scene, then = make(), make()
    with scene.connect() as polite, scene.connect() as rude:
        names = [polite.name, rude.name]
        for client in (polite, rude):
            client.echo(b"hello")
        frozen = scene.freeze()
        polite.close()
        rude.reset()
        then.adopt(frozen)
        while then.admission.clients:
            then.do(lambda: None)
    closed = "closing connection from {}: {} by the client, 5 bytes echoed in "
    wanted = {closed.format(names[0], "closed"), closed.format(names[1], "reset")}
    assert {text.rpartition("in ")[0] + "in " for text in closings(caplog)} == wanted


@pytest.mark.parametrize("greet", [True, False])
def test_one_that_is_reset_meanwhile_is_no_matter_to_handlers(make: Make, greet: bool) -> None:
    scene, then = make(), make(handlers=Handlers(greet=greet))
    clients = [scene.connect() for _ in range(10)]
    for client in clients:
        client.echo(b"hello")
    frozen = scene.freeze()
    for client in clients:
        client.reset()
    then.adopt(frozen)
    while then.admission.clients:
        then.do(lambda: None)
    assert then.thread.failure is None


def test_who_does_not_fit_any_more_is_turned_away(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    scene, then = make(), make(limit=2)
    clients = [scene.connect() for _ in range(3)]
    for client in clients:
        client.echo(b"hello")
    frozen = scene.freeze()
    then.adopt(frozen)
    told = [c for c in clients if str(frozen[2]) == c.name]
    assert [client.recv_to_end() for client in told] == [FAREWELL]
    for client in clients:
        if client not in told:
            client.echo(b"hello")
        client.close()
    assert [r.getMessage() for r in caplog.records] == [
        f"refused 1 client, the last from {frozen[2]}: max_clients = 2 reached"
    ]
    then.finish()
    assert then.admission.clients == 0


def test_all_who_do_not_fit_any_more_are_told(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are no strangers, of whom only so many may linger."""
    monkeypatch.setattr(acceptor, "MAX_LINGERING", 1)
    scene, then = make(), make(limit=1)
    clients = [scene.connect() for _ in range(5)]
    for client in clients:
        client.echo(b"hello")
    frozen = scene.freeze()
    then.adopt(frozen)
    for client in clients:
        if client.name == str(frozen[0]):
            client.echo(b"still here")
        else:
            assert client.recv_to_end() == FAREWELL
        client.close()


def test_who_is_not_counted_is_turned_away_and_not_logged(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    scene, then = make(), make()
    with scene.connect() as client:
        client.echo(b"hello")
        (stranger,) = scene.freeze()
        stranger.counted = False
        stranger.unsent = b"unsent"
        caplog.clear()
        caplog.set_level(logging.INFO, "graced")
        then.adopt([stranger])
        assert client.recv_to_end() == b"unsent" + FAREWELL
    then.finish()
    assert (then.admission.clients, then.admission.admitted) == (0, 0)
    assert not caplog.records


def test_who_is_being_turned_away_is_not_frozen(make: Make) -> None:
    scene = make(limit=1)
    with scene.connect() as guest, scene.connect() as refused:
        guest.echo(b"hello")
        assert refused.recv_to_end() == FAREWELL
        frozen = scene.freeze()
        assert [str(client) for client in frozen] == [guest.name]
        frozen[0].sock.close()


def test_silence_goes_on(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """A restart now and then must not keep an idle client for ever."""
    caplog.set_level(logging.INFO, "graced")
    scene, then = make(idle_timeout=3600.0), make(idle_timeout=3600.0)
    with scene.connect() as idle, scene.connect() as busy:
        for client in (idle, busy):
            client.echo(b"hello")
        frozen = scene.freeze()
        for each in frozen:
            each.last -= 3599.9 if str(each) == idle.name else 1800.0
        then.adopt(frozen)
        idle.expect_end()
        busy.echo(b"still here")
    assert [text for text in closings(caplog) if ": idle, 5 bytes echoed in" in text]


def test_a_new_idle_timeout_holds_for_who_was_here_before(make: Make) -> None:
    scene, then = make(), make(idle_timeout=0.2)
    with scene.connect() as client:
        client.echo(b"hello")
        then.adopt(scene.freeze())
        client.expect_end()


def test_one_that_takes_nothing_has_its_time_in_the_next_process_too(make: Make) -> None:
    scene, then = make(stall_timeout=3600.0), make(stall_timeout=0.2)
    with scene.connect() as deaf:
        deafen(scene, deaf)
        then.adopt(scene.freeze())
        then.thread.report_next_activity()
        while then.admission.clients:
            then.changed()
        assert then.thread._clients._unsent == 0


def test_what_was_due_to_one_that_is_frozen_is_not_done(make: Make) -> None:
    scene = make()
    with scene.connect() as deaf:
        deafen(scene, deaf)
        soon = time.monotonic() + 0.1

        def press() -> None:
            for client in scene.thread._clients.present():
                scene.thread._poller.timers.schedule(client, soon)

        scene.do(press)
        (frozen,) = scene.freeze()
        while time.monotonic() < soon:
            scene.do(lambda: None)
        scene.do(lambda: None)
        assert frozen.sock.fileno() >= 0
        frozen.sock.close()


def test_the_name_of_a_unix_client_is_its_own(make: Make, tmp_path: Any) -> None:
    scene, then = make(f"unix:{tmp_path}/one"), make(f"unix:{tmp_path}/two")
    with scene.connect() as one, scene.connect() as two:
        for client in (one, two):
            client.echo(b"hello")
        frozen = scene.freeze()
        then.adopt(frozen)
        with then.connect() as three:
            three.echo(b"hello")
            listeners = {client.port for client in then.do(then.thread._clients.present)}
        assert len(listeners) == 3


def test_the_copy_that_a_child_has_keeps_no_client_and_makes_no_news(make: Make) -> None:
    """Of a handler that forks."""
    scene = make(handlers=Handlers(), idle_timeout=0.1)
    with scene.connect() as idle:
        while not (clients := scene.do(scene.thread._clients.present)):
            pass
        with clients[0].sock.dup():
            idle.expect_end()
            idle.send(b"too late")
            assert scene.do(lambda: scene.thread._poller.epoll.poll(0)) == []


def test_out_of_band_data_after_the_farewell_wakes_nobody_up(make: Make, tmp_path: Any) -> None:
    scene = make(f"unix:{tmp_path}/one")
    with scene.connect() as client:
        client.echo(b"hello")
        scene.thread.drain()
        client.expect_farewell_alone()
        client.sock.send(b"!", MSG_OOB)
        # It is held back, and thrown away after the gap.
        while scene.do(lambda: scene.thread._poller.epoll.poll(0)):
            pass
        client.echo(b"still here")


def test_one_that_takes_nothing_is_turned_away_all_the_same(make: Make) -> None:
    scene, then = make(), make()
    with scene.connect() as deaf:
        sent = deafen(scene, deaf)
        (stranger,) = scene.freeze()
        stranger.counted = False
        then.adopt([stranger])
        # What fits, and the end.
        heard = deaf.recv_to_end()
        assert heard
        assert (b"x" * sent + FAREWELL).startswith(heard)
        deaf.close()
        while then.do(lambda: then.thread._clients.lingering):
            pass
