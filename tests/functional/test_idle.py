"""With nothing to do the server does nothing at all."""

from __future__ import annotations

import select
from contextlib import ExitStack
from pathlib import Path

import pytest

from robustness.scale import scaled
from strangers.gate import VARIABLE, Gate
from support import Activity, Client, Graced, settled

CLIENTS = 100
SECONDS = scaled(3.0, 10.0)


def quiet(seconds: float, *wakers: object) -> bool:
    """Whether for so many seconds nothing happens on any of the sockets."""
    poll = select.poll()
    for waker in wakers:
        poll.register(waker, select.POLLIN)  # type: ignore[arg-type]
    return not poll.poll(seconds * 1000)


def test_with_idle_clients_no_thread_runs() -> None:
    """Neither of the server whose clients share a thread nor of the one where each has its own."""
    with (
        Graced() as echo,
        Graced("--handler", "echo-threaded") as threaded,
        ExitStack() as stack,
    ):
        clients: dict[Graced, list[Client]] = {}
        for graced in (echo, threaded):
            clients[graced] = [stack.enter_context(graced.connect()) for _ in range(CLIENTS)]
            for client in clients[graced][: CLIENTS // 2]:
                client.echo(b"hello")
            graced.log.wait_for("<6>connection from", CLIENTS)
            assert settled(graced.pid)
        before = {graced: Activity(graced.pid) for graced in clients}
        # The main thread, the log, the I/O thread; the handlers of those who have spoken.
        assert len(before[echo]) == 3
        assert len(before[threaded]) == 3 + CLIENTS // 2
        everybody = [client.sock for each in clients.values() for client in each]
        assert quiet(SECONDS, *everybody)
        for graced, own in clients.items():
            assert Activity(graced.pid) == before[graced]
            for client in own:
                client.echo(b"still there")
            assert Activity(graced.pid) != before[graced]


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_client_that_waits_for_its_answer_is_not_idle(kind: str, tmp_path: Path) -> None:
    """Clients at rest, and one that has sent half a request, are."""
    listen = "127.0.0.1:0" if kind == "tcp" else f"unix:{tmp_path}/socket"
    env = {VARIABLE: str(tmp_path / "gate")}
    config = "[limits]\nidle_timeout = 0.5\n"
    options = ("--handler", "support.odd:Plain")
    with (
        Gate(tmp_path / "gate") as gate,
        Graced(*options, listen=listen, config=config, env=env) as graced,
        graced.connect() as client,
    ):
        client.send(b"late\n")
        gate.await_servers(1)
        for request in (b"hello\n", b"hel", b"hello\n"):
            with graced.connect() as other:
                other.send(request)
                assert other.recv_to_end() in {b"HELLO\n", b"", b"HELLO\nbye\n", b"bye\n"}
        gate.open()
        assert client.recv_exactly(5) == b"LATE\n"
        assert client.recv_to_end() in {b"bye\n", b""}
