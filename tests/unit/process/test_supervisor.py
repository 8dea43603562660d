"""A whole life under the supervisor, with real signals and a notify socket."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from signal import SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2
from typing import Any

import pytest

from graced import server as server_module
from graced.handlers.blocking import Blocking
from graced.handover.fdstore import FdStore
from graced.loop.admission import Admission
from graced.loop.policy import Policy
from graced.process.lifecycle import State
from graced.process.supervisor import Supervisor
from graced.server import Server
from graced.signals import SignalInbox
from graced.sockets import binding
from graced.sockets.address import Address
from graced.systemd.notify import Notifier
from support import MOMENT, PATIENCE, Client, NotifySocket

EXTENDING = "EXTEND_TIMEOUT_USEC=10000000"


class Scene:
    """A supervisor with a real server, as `graced.app.service` builds them."""

    def __init__(
        self, stack: ExitStack, *, grace: float, run: Callable[[Any, Any], None] | None
    ) -> None:
        self.inbox = stack.enter_context(SignalInbox())
        self.notifier = Notifier()
        stack.callback(self.notifier.close)
        (self.listener,) = binding.bind([Address.parse("127.0.0.1:0")], 100)
        stack.callback(self.listener.close)
        self.server = Server(
            [self.listener],
            admission=Admission(100, 0),
            policy=Policy(gap=0.0),
            blocking=Blocking(run) if run else None,
        )
        stack.callback(self.server.close)
        stack.callback(self.server.stop)
        self.supervisor = Supervisor(self.server, self.inbox, self.notifier, grace=grace)
        self._stack = stack

    def connect(self) -> Client:
        """A client that has been accepted."""
        host, port = self.server.server_address
        client = self._stack.enter_context(Client.connect(f"{host}:{port}"))
        client.echo(b"hello")
        return client


Make = Callable[..., Scene]


@pytest.fixture
def make() -> Iterator[Make]:
    with ExitStack() as stack:

        def make(*, grace: float = 5.0, run: Callable[[Any, Any], None] | None = None) -> Scene:
            return Scene(stack, grace=grace, run=run)

        yield make


@pytest.fixture
def managed(notify_socket: NotifySocket, monkeypatch: pytest.MonkeyPatch) -> NotifySocket:
    """A service manager that has started this process."""
    monkeypatch.setenv("NOTIFY_SOCKET", notify_socket.name)
    return notify_socket


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    caplog.set_level("INFO", "graced")


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The log, without the records about single clients."""
    return [text for text in caplog.messages if "connection from" not in text]


@pytest.mark.parametrize("signum", [SIGTERM, SIGHUP, SIGINT, SIGQUIT])
def test_stop_without_clients(
    make: Make, signum: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make()
    scene.supervisor.start()
    signal.raise_signal(signum)
    assert scene.supervisor.serve() is signum
    scene.supervisor.drain(signum)
    scene.supervisor.stop()
    assert scene.supervisor.lifecycle.state is State.STOPPED
    first, last = messages(caplog)
    assert first == f"{signum.name} received, closing in 5 s, 0 clients remaining"
    assert last.endswith(": 0 clients departed, 0 closed at the deadline")


def test_drain_ends_when_last_client_departs(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    scene = make(grace=3600.0)
    scene.supervisor.start()
    client = scene.connect()

    def depart() -> None:
        client.expect_farewell_alone()
        client.close()

    departing = threading.Thread(target=depart)
    departing.start()
    scene.supervisor.drain(SIGTERM)
    departing.join()
    scene.supervisor.stop()
    assert messages(caplog)[-1].endswith(": 1 client departed, 0 closed at the deadline")


def test_remaining_client_is_closed_at_deadline(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make(grace=1.2)
    scene.supervisor.start()
    client = scene.connect()
    began = time.monotonic()
    scene.supervisor.drain(SIGTERM)
    assert 1.2 <= time.monotonic() - began < 1.2 + MOMENT
    client.expect_farewell_alone()
    scene.supervisor.stop()
    client.expect_end()
    texts = messages(caplog)
    assert texts[:3] == [
        "SIGTERM received, closing in 1.2 s, 1 client remaining",
        "telling 1 client that the server is going offline",
        "closing in 1 s, 1 client remaining",
    ]
    assert texts[-1].endswith(": 0 clients departed, 1 closed at the deadline")


@pytest.mark.parametrize("impatient", [SIGINT, SIGQUIT])
def test_impatient_signal_ends_drain(
    make: Make, impatient: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make(grace=3600.0)
    scene.supervisor.start()
    client = scene.connect()
    for signum in (SIGTERM, SIGUSR1, SIGHUP, impatient, SIGTERM):
        signal.raise_signal(signum)
    assert scene.supervisor.serve() is SIGTERM
    scene.supervisor.drain(SIGTERM)
    scene.supervisor.stop()
    assert client.recv_to_end() == b"SHUTDOWN"
    assert messages(caplog)[2:-1] == [
        "draining: 1 client remaining, 3600 s to go",
        "SIGHUP received, already closing",
        f"{impatient.name} received again, ending the grace period now",
        "SIGTERM received, already closing",
    ]


def test_status_is_logged_while_serving(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    scene = make()
    scene.supervisor.note = "; inherited 3 clients in 7 ms"
    scene.supervisor.start()
    scene.connect()
    for signum in (SIGUSR1, SIGTERM):
        signal.raise_signal(signum)
    assert scene.supervisor.serve() is SIGTERM
    (text,) = messages(caplog)
    # A byte is counted a moment after its client has it.
    status = (
        r"serving: 1 client now, 1 so far, [05] bytes echoed on (.*); inherited 3 clients in 7 ms"
    )
    found = re.fullmatch(status, text)
    assert found
    assert found[1] == scene.listener.name


def test_status_names_some_of_many_addresses(make: Make, managed: NotifySocket) -> None:
    scene = make()
    scene.server.addresses = [f"192.0.2.{n}:9999" for n in range(250)]
    scene.supervisor.start()
    ready = managed.wait_for("READY=1").text
    assert ready.endswith("on 192.0.2.0:9999, 192.0.2.1:9999, 192.0.2.2:9999 and 247 more")


def test_handover_is_refused_without_service_manager(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make()
    scene.supervisor.start()
    for signum in (SIGUSR2, SIGTERM):
        signal.raise_signal(signum)
    assert scene.supervisor.serve() is SIGTERM
    assert messages(caplog) == [
        "SIGUSR2 received and ignored: there is no service manager to hand over to"
    ]


def test_handler_that_does_not_return_is_left_behind(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    released = threading.Event()

    def stuck(request: Any, _address: Any) -> None:
        request.sendall(request.recv(100))
        assert released.wait(PATIENCE)

    scene = make(grace=0.0, run=stuck)
    scene.supervisor.start()
    scene.connect()
    try:
        scene.supervisor.drain(SIGTERM)
        scene.supervisor.stop()
    finally:
        released.set()
        assert scene.server.pool
        assert scene.server.pool.join(PATIENCE) == 0
    assert "exiting without waiting longer for 1 handler" in messages(caplog)


@pytest.mark.parametrize("where", ["serving", "draining"])
def test_failure_of_io_thread_is_raised(make: Make, where: str) -> None:
    scene = make(grace=3600.0)
    scene.supervisor.start()
    client = scene.connect()

    def fail() -> None:
        raise LookupError("as expected")

    if where == "serving":
        scene.server.io_threads[0].post(fail)
        with pytest.raises(LookupError, match="as expected"):
            scene.supervisor.serve()
    else:

        def fail_later() -> None:
            client.expect_farewell_alone()
            scene.server.io_threads[0].post(fail)

        failing = threading.Thread(target=fail_later)
        failing.start()
        with pytest.raises(LookupError, match="as expected"):
            scene.supervisor.drain(SIGTERM)
        failing.join()


# The service manager.


def test_service_manager_hears_each_state(managed: NotifySocket, make: Make) -> None:
    scene = make(grace=1.0)
    scene.supervisor.start()
    client = scene.connect()
    scene.supervisor.drain(SIGTERM)
    client.expect_farewell_alone()
    scene.supervisor.stop()
    managed.wait_for("STATUS=stopped")
    assert managed.texts == [
        "READY=1\nSTATUS=serving: 0 clients now, 0 so far, 0 bytes echoed on"
        f" {scene.listener.name}",
        f"STOPPING=1\nSTATUS=draining: 1 client remaining, 1 s to go\n{EXTENDING}",
        "STATUS=stopped: 0 clients departed, 1 closed at the deadline",
    ]


def test_each_second_of_drain_extends_timeout(managed: NotifySocket, make: Make) -> None:
    scene = make(grace=2.5)
    scene.supervisor.start()
    scene.connect()
    scene.supervisor.drain(SIGTERM)
    scene.supervisor.stop()
    managed.wait_for("stopped")
    ready, *draining, stopped = managed.texts
    assert EXTENDING not in ready + stopped
    assert [text.count(EXTENDING) for text in draining] == [1] * len(draining)


def test_clients_are_handed_over(
    managed: NotifySocket,
    make: Make,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frozen: list[Any] = []
    freeze = Server.freeze

    def remember(server: Server) -> list[Any]:
        frozen.extend(freeze(server))
        return frozen

    monkeypatch.setattr(Server, "freeze", remember)
    managed.hold_barriers = True
    scene = make()
    store = FdStore(scene.notifier)
    store.reserve()
    # A bundle that the service manager does not have is no room.
    managed.wait_for("FDSTORE=1")
    scene.supervisor.start()
    client = scene.connect()
    signal.raise_signal(SIGUSR2)
    assert scene.supervisor.serve() is SIGUSR2
    assert scene.supervisor.settle() is None
    scene.supervisor.hand_over_clients(store)
    assert scene.supervisor.lifecycle.state is State.HANDING_OVER
    assert scene.server.clients == 0
    scene.supervisor.drain(SIGUSR2)
    scene.supervisor.stop()
    store.close()
    for each in frozen:
        # As at the end of the process; the service manager has a copy.
        each.sock.close()
    first, last = messages(caplog)
    assert first == "SIGUSR2 received, handing over 1 client to the next start, 0 remaining"
    assert "stopped after" in last
    client.send(b"for the next process")


def test_clients_are_told_when_an_io_thread_does_not_answer(
    managed: NotifySocket,
    make: Make,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "FREEZE_TIMEOUT", 0.1)
    managed.hold_barriers = True
    scene = make()
    store = FdStore(scene.notifier)
    store.reserve()
    managed.wait_for("FDSTORE=1")
    scene.supervisor.start()
    client = scene.connect()
    gate = threading.Event()

    def hang() -> None:
        gate.wait(PATIENCE)

    scene.server.io_threads[0].post(hang)
    assert scene.supervisor.settle() is None
    scene.supervisor.hand_over_clients(store)
    gate.set()

    def depart() -> None:
        client.expect_farewell_alone()
        client.close()

    departing = threading.Thread(target=depart)
    departing.start()
    scene.supervisor.drain(SIGUSR2)
    departing.join()
    scene.supervisor.stop()
    store.close()
    assert "an I/O thread does not answer" in messages(caplog)[0]
    assert messages(caplog)[-1].endswith(": 1 client departed, 0 closed at the deadline")


def test_client_without_room_in_store_remains(
    managed: NotifySocket, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make(grace=0.5)
    store = FdStore(scene.notifier)
    scene.supervisor.start()
    client = scene.connect()
    assert scene.supervisor.settle() is None
    scene.supervisor.hand_over_clients(store)
    assert scene.server.clients == 1
    client.echo(b"served here")
    scene.supervisor.drain(SIGUSR2)
    client.expect_farewell_alone()
    scene.supervisor.stop()
    assert messages(caplog)[:2] == [
        "SIGUSR2 received, handing over 0 clients to the next start, 1 remaining",
        "telling 1 client that the server is going offline",
    ]


def test_ready_is_said_after_what_has_to_be_done_before(make: Make, managed: NotifySocket) -> None:
    """The listeners of the last process are gone when `systemctl restart` returns."""
    scene = make()
    said: list[bool] = []

    def serve() -> None:
        said.append(any("READY=1" in message.text for message in managed.messages))
        assert scene.connect()

    scene.supervisor.start(served=serve)
    managed.wait_for("READY=1")
    assert said == [False]
