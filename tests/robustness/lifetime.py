"""The life of a daemon in one scenario: start, service, status, handover, next start, drain.

It is the same life each time; what differs is the fault that is injected into it, or the trace
that is taken of it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from signal import SIGINT, SIGTERM, SIGUSR1, SIGUSR2

from support import FAREWELL, PASS, Client, Daemon, FdStore
from support.process import LEFT_TO_THE_KERNEL

KEEPING = """
[continuity]
keep = "always"
"""
IMPATIENT = """
[limits]
idle_timeout = 0.2
stall_timeout = 0.2
"""
WATCHDOG = """
os.environ["WATCHDOG_USEC"] = "600000000"
"""


class Lifetime:
    """Three starts of the same daemon, one after the other."""

    def __init__(
        self, handler: str, directory: Path, kind: Callable[..., Daemon] = Daemon, before: str = ""
    ) -> None:
        """`before`: what each process does first, see `support.process.launch`."""
        self.daemons: list[Daemon] = []
        """Of the starts so far."""
        self._addresses = ["127.0.0.1:0", "[::1]:0", f"unix:{directory}/socket"]
        self._kind = kind
        self._before = before
        self._handler = handler

    def run(self) -> None:
        store = FdStore()
        with store, ExitStack() as clients:
            with self._start(KEEPING, store) as first:
                self._addresses = first.addresses
                talking, stalled = (clients.enter_context(first.served(n)) for n in range(2))
                self._serve(first, talking)
                sent = stalled.send_until_full()
                if self._handler != "echo":
                    # A thread that is in the middle of a write is not handed over.
                    stalled.recv_exactly(sent)
                    sent = 0
                first.signal(SIGUSR2)
                assert first.wait() == 79
            with self._start(KEEPING, store) as second:
                talking.echo(b"and on")
                assert len(stalled.recv_exactly(sent)) == sent
                self._drain(second, [talking, stalled])
            with self._start(IMPATIENT, store) as third:
                idle = clients.enter_context(third.served())
                idle.expect_end()
                third.signal(SIGTERM)
                assert third.wait() == 0

    def _start(self, config: str, store: FdStore) -> Daemon:
        daemon = self._kind(
            *("--handler", self._handler, "--grace", "120"),
            listen=self._addresses,
            config=config,
            env={**store.environment, **LEFT_TO_THE_KERNEL},
            before=PASS + WATCHDOG + self._before,
            pass_fds=store.descriptors,
        )
        self.daemons.append(daemon)
        return daemon

    def _serve(self, daemon: Daemon, talking: Client) -> None:
        talking.echo(b"hello")
        daemon.signal(SIGUSR1)
        daemon.log.wait_for("<6>serving: ")

    def _drain(self, daemon: Daemon, clients: list[Client]) -> None:
        """One client departs, one comes too late, the others stay until the end, SIGINT."""
        daemon.signal(SIGTERM)
        for client in clients:
            client.expect_farewell_alone()
        # Not the Unix socket: of its queue the kernel does not tell who came before the drain.
        with daemon.connect(0) as late:
            assert late.recv_to_end() == FAREWELL
        clients[0].echo(b"goodbye")
        clients[0].close()
        daemon.signal(SIGINT)
        for client in clients[1:]:
            client.expect_end()
        assert daemon.wait() == 0
