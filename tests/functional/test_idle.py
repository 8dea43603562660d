"""With nothing to do the server does nothing at all."""

from __future__ import annotations

import select
from contextlib import ExitStack
from pathlib import Path

from support import Client, Graced

CLIENTS = 100
SECONDS = 10.0


class Activity(dict[str, tuple[str, ...]]):
    """What the kernel has counted for each thread of a process.

    Whoever makes a system call, and returns from the one it slept in, has run: its time on a
    processor (in nanoseconds, /proc/PID/task/TID/schedstat) and its context switches are more
    than before.
    """

    def __init__(self, pid: int) -> None:
        for task in Path(f"/proc/{pid}/task").iterdir():
            status = (task / "status").read_text().splitlines()
            switches = [line for line in status if "ctxt_switches" in line]
            assert len(switches) == 2
            run_time, _, slices = (task / "schedstat").read_text().split()
            self[task.name] = (run_time, slices, *switches)


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


def settled(pid: int) -> bool:
    """Wait until what has been asked for is done: until all threads sleep, for a moment."""
    before = None
    for _ in range(100):
        now = Activity(pid)
        if now == before:
            return True
        before = now
        select.poll().poll(100)
    return False
