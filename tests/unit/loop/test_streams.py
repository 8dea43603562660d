"""Stream handlers on an I/O thread: what no comparison with asyncio shows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from graced import StreamProtocol
from graced.loop import clients as clients_module
from graced.loop.policy import parts_until
from loop.scene import Make, Scene
from loop.stream_scene import streaming
from support import FAREWELL, PATIENCE, Client


class Noting(StreamProtocol):
    """Notes its calls, and does what a test says."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.lost = threading.Event()
        self.got = threading.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.calls.append(data)
        self.got.set()
        self.transport.write(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.calls.append(exc)
        self.lost.set()

    def save(self) -> bytes:
        return repr(self.calls).encode()

    def restore(self, state: bytes) -> None:
        self.calls.append(state)


class Kind:
    """A stream handler that remembers its instances."""

    def __init__(self, make: Make, factory: Callable[[], Any] = Noting, **options: Any) -> None:
        self.made: list[Any] = []

        def handler() -> Any:
            self.made.append(factory())
            return self.made[-1]

        policy = options.pop("policy", {})
        self.scene: Scene = make(
            streaming=streaming(handler, **options), **{"farewell": None, **policy}
        )

    def connect(self) -> tuple[Client, Any]:
        number = len(self.made)
        client = self.scene.connect()
        self.scene.wait_until(lambda: len(self.made) > number)
        return client, self.made[number]


def test_call_later_is_made_and_can_be_cancelled(make: Make) -> None:
    kind = Kind(make)
    client, handler = kind.connect()
    with client:
        calls: list[str] = []
        done = threading.Event()

        def schedule() -> None:
            cancelled = handler.transport.call_later(0.01, calls.append, "cancelled")
            handler.transport.call_later(0.02, calls.append, "late")
            handler.transport.call_soon(calls.append, "soon")
            handler.transport.call_later(0.03, done.set)
            cancelled.cancel()
            assert cancelled.cancelled()

        kind.scene.do(schedule)
        assert done.wait(PATIENCE)
        assert calls == ["soon", "late"]


@pytest.mark.parametrize("awaited", ["an answer", "nothing", "too late", "cancelled"])
def test_timed_call_for_soon_is_the_next_part_of_an_answer(make: Make, awaited: str) -> None:
    """Unless the client has spoken since, or the deadline is near, or the call was cancelled."""
    kind = Kind(make, policy={"farewell": FAREWELL})
    client, handler = kind.connect()
    with client:

        def ask() -> None:
            call = handler.transport.call_later(0.5, handler.transport.write, b"late")
            handler.transport.call_later(3600.0, handler.transport.write, b"never")
            if awaited == "cancelled":
                call.cancel()

        client.echo(b"hello")
        kind.scene.do(ask)
        if awaited == "nothing":
            client.echo(b"hello")
        deadline = monotonic() + (0.5 if awaited == "too late" else 3600.0)
        kind.scene.thread.drain(parts_until(deadline))
        expected = b"late" + FAREWELL if awaited == "an answer" else FAREWELL
        assert client.recv_exactly(len(expected)) == expected


def test_call_is_not_made_after_the_connection_is_lost(make: Make) -> None:
    kind = Kind(make)
    client, handler = kind.connect()
    calls: list[str] = []
    kind.scene.do(lambda: handler.transport.call_later(0.05, calls.append, "late"))
    client.close()
    assert handler.lost.wait(PATIENCE)
    other, second = kind.connect()
    with other:
        done = threading.Event()
        kind.scene.do(lambda: second.transport.call_later(0.1, done.set))
        assert done.wait(PATIENCE)
    handler.transport.call_soon_threadsafe(calls.append, "from a thread")
    assert calls == []


def test_answer_of_a_thread(make: Make) -> None:
    kind = Kind(make)
    client, handler = kind.connect()
    with client:
        transport = handler.transport
        threading.Thread(
            target=transport.call_soon_threadsafe, args=(transport.write, b"answer")
        ).start()
        assert client.recv_exactly(6) == b"answer"


@pytest.mark.parametrize("by", ["input", "timer", "thread"])
def test_write_is_activity(make: Make, by: str) -> None:
    kind = Kind(make)
    client, handler = kind.connect()
    with client:
        client.echo(b"hello")
        transport = handler.transport
        kind.scene.thread.report_next_activity()
        if by == "input":
            client.send(b"answer")
        elif by == "timer":
            kind.scene.do(lambda: transport.call_later(0.01, transport.write, b"answer"))
        else:
            transport.call_soon_threadsafe(transport.write, b"answer")
        assert client.recv_exactly(6) == b"answer"
        kind.scene.changed()


def test_timed_call_that_writes_nothing_is_no_activity(make: Make) -> None:
    """Or a handler's clock would wake the main thread at each tick."""
    kind = Kind(make)
    client, handler = kind.connect()
    with client:
        client.echo(b"hello")
        # The turn with that answer is over, and reported if that was awaited.
        kind.scene.do(int)
        while kind.scene.changes.acquire(blocking=False):
            continue
        kind.scene.thread.report_next_activity()
        done = threading.Event()
        kind.scene.do(lambda: handler.transport.call_later(0.01, done.set))
        assert done.wait(PATIENCE)
        kind.scene.do(int)
        assert not kind.scene.changes.acquire(blocking=False)


@pytest.mark.parametrize("end", ["end of file", "abort", "close", "freeze"])
def test_write_after_the_end_sends_nothing(make: Make, end: str) -> None:
    """Also of a handler that has written before, whose next write looks at nothing."""
    kind = Kind(make, movable=True)
    client, handler = kind.connect()
    with client:
        client.echo(b"hello")
        transport = handler.transport
        if end == "freeze":
            frozen = kind.scene.freeze()
            kind.scene.do(lambda: transport.write(b"late"))
            kind.scene.adopt(frozen)
            client.echo(b"again")
            return
        if end == "end of file":
            kind.scene.do(transport.write_eof)
            with pytest.raises(RuntimeError, match="after write_eof"):
                transport.write(b"late")
        else:

            def end_and_write() -> None:
                transport.abort() if end == "abort" else transport.close()
                transport.write(b"late")

            kind.scene.do(end_and_write)
        assert client.recv_to_end() == b""


def test_exception_in_a_scheduled_call_ends_the_client(make: Make) -> None:
    kind = Kind(make)
    client, handler = kind.connect()
    with client:
        handler.transport.call_soon_threadsafe(int, "no number")
        assert client.recv_to_end() == b""
    assert handler.lost.wait(PATIENCE)
    assert [type(call) for call in handler.calls] == [ValueError]


@pytest.mark.parametrize("address", ["127.0.0.1:0", "unix"])
def test_client_that_departs_while_its_handler_does_not_read_costs_nothing(
    make: Make, address: str, tmp_path: Any
) -> None:
    made: list[Noting] = []

    def handler() -> Noting:
        made.append(Noting())
        return made[-1]

    listen = address if address != "unix" else f"unix:{tmp_path}/socket"
    scene = make(listen, streaming=streaming(handler), farewell=None)
    client = scene.connect()
    scene.wait_until(lambda: made)
    scene.do(made[0].transport.pause_reading)
    client.send(b"unread")
    client.close()
    scene.do(lambda: None)
    used = time.process_time()
    time.sleep(0.3)  # The time in which a loop that spins would use the processor.
    assert time.process_time() - used < 0.2
    assert made[0].calls == []
    scene.do(made[0].transport.resume_reading)
    assert made[0].lost.wait(PATIENCE)
    assert made[0].calls[0] == b"unread"


def test_freeze_saves_state_and_unsent_bytes(make: Make) -> None:
    kind = Kind(make, movable=True, holds_back=True)
    client, handler = kind.connect()
    with client:
        client.echo(b"hello")
        frozen, sent = kind.scene.freeze_with_unsent(client)
        assert frozen.saved is not None
        assert frozen.saved.startswith(b"[")
        assert type(frozen.unsent) is bytes
        kind.scene.adopt([frozen])
        restored = kind.made[-1]
        assert restored is not handler
        assert frozen.saved in restored.calls
        received = client.recv_exactly(sent)
        assert len(received) == sent
        assert not handler.lost.is_set()


def test_batch_saves_no_more_clients_than_it_takes(make: Make) -> None:
    kind = Kind(make, movable=True)
    clients = [kind.connect() for _ in range(3)]
    frozen = kind.scene.freeze(most=2)
    assert len(frozen) == 2
    assert len(kind.scene.freeze(most=0)) == 0
    moved = {str(each) for each in frozen}
    for client, handler in clients:
        if client.name not in moved:
            client.echo(b"hello")
            assert not handler.lost.is_set()
    kind.scene.adopt(frozen)
    for client, _ in clients:
        client.echo(b"and on")
        client.close()


def test_client_that_said_nothing_is_frozen_without_state(make: Make) -> None:
    kind = Kind(make)
    silent, _ = kind.connect()
    talking, _ = kind.connect()
    with silent, talking:
        talking.echo(b"hello")
        (frozen,) = kind.scene.freeze()
        assert frozen.saved is None
        kind.scene.adopt([frozen])
        silent.echo(b"hello")
        talking.echo(b"served on")


def test_save_that_fails_ends_one_client(make: Make) -> None:
    class Failing(Noting):
        def save(self) -> bytes:
            raise ValueError("no state")

    kind = Kind(make, Failing, movable=True)
    client, handler = kind.connect()
    with client:
        assert kind.scene.freeze() == []
        assert client.recv_to_end() == b""
    assert handler.lost.wait(PATIENCE)


def test_factory_that_fails_ends_one_client(make: Make) -> None:
    def fail() -> Any:
        raise OSError("no serial line")

    scene = make(streaming=streaming(fail), farewell=None)
    for _ in range(2):
        with scene.connect() as client:
            assert client.recv_to_end() == b""


def test_reads_are_small_while_clients_do_not_read(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients_module, "UNSENT_BUDGET", 1)
    kind = Kind(make, holds_back=True)
    full, _ = kind.connect()
    client, handler = kind.connect()
    with full, client:
        full.send_until_full()
        kind.scene.wait_until(kind.made[0].transport.get_write_buffer_size)
        client.echo(b"x" * 100_000)
        assert max(map(len, handler.calls)) <= clients_module.SMALL_READ


def test_extra_info(make: Make) -> None:
    kind = Kind(make)
    client, handler = kind.connect()
    with client:
        transport = handler.transport
        assert transport.get_extra_info("peername") == client.sock.getsockname()
        assert transport.get_extra_info("sockname") == client.sock.getpeername()
        assert transport.get_extra_info("socket").fileno() > 0
        assert not hasattr(transport.get_extra_info("socket"), "close")
        assert transport.get_extra_info("restored") is False
        assert transport.get_extra_info("cipher", "none") == "none"


def test_deadline_tells_the_handler(make: Make) -> None:
    kind = Kind(make)
    client, handler = kind.connect()
    with client:
        client.echo(b"hello")
        kind.scene.finish()
        assert client.recv_to_end() == b""
    assert handler.lost.is_set()
    assert repr(handler.calls[-1]) == "ConnectionAbortedError('deadline')"
