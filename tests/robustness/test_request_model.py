"""Requests, clients and signals in any order, and what the contract says of answers.

A state machine of hypothesis has clients ask, in parts and many at once, half-close, stall, leave
and break off, stops and restarts the server in between, and finds:

- what a client receives is the beginning of the right answers: whole, in order, nothing injected;
- all that was asked before the stop signal is answered, if its client is there to read it;
- a client at rest hears end of file at once, or stays connected over a restart;
- the server is gone when its last client is, and half a second after the deadline at the latest.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from signal import SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR2, Signals

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    precondition,
    rule,
)

from robustness.answering import Asker
from robustness.modelling import CONFIG, ENOUGH, GRACE, ClientModel, run_steps
from robustness.scale import scaled
from support import MOMENT, PASS, Client, FdStore, Graced
from support.process import LEFT_TO_THE_KERNEL

STEPS = scaled(150, 10_000)
"""Rules that are run, at least, over all kinds of handlers."""
AT_ONCE = 1.0
"""Seconds within which a client at rest is sent away, or a server without clients ends."""
RESTARTED = 79
Lengths = st.lists(st.sampled_from([0, 1, 100, 5000, 1 << 18, 1 << 20]), min_size=1, max_size=4)


class Model(ClientModel):
    """One service, from its first start to its end."""

    handler: str
    carried = False
    """Whether clients stay connected at a restart, of which the handler has read something."""
    silent_carried = True
    """Whether the others do."""

    def __init__(self) -> None:
        super().__init__()
        self._store = FdStore()
        self._belongings.enter_context(self._store)
        self._address = "127.0.0.1:0"
        self.all: list[Asker] = []
        self._stopped_at = 0.0
        self._resting: list[Asker] = []
        """Clients that were at rest when the server was told to stop."""
        self._owed: dict[Asker, int] = {}
        """Bytes of answers that clients had a right to at that time."""
        self._hurried = 0.0
        """When a signal was sent last that may end the grace period."""
        self._deadline = 0.0
        self._start()

    def _start(self) -> None:
        env = {**self._store.environment, **LEFT_TO_THE_KERNEL}
        self.graced = self._belongings.enter_context(
            Graced(
                "--handler",
                self.handler,
                listen=self._address,
                config=CONFIG,
                env=env,
                before=PASS,
                pass_fds=self._store.descriptors,
            )
        )
        (self._address,) = self.graced.addresses
        self._ended = os.pidfd_open(self.graced.pid)
        self._belongings.callback(os.close, self._ended)

    # What is done.

    @rule(target=ClientModel.clients)
    def connect(self) -> Asker:
        if self._stopped_at:
            return self._connect_late()
        asker = Asker(self.graced.served().sock)
        self._add(asker)
        return asker

    def _connect_late(self) -> Asker:
        try:
            asker = Asker(Client.connect(self._address).sock)
        except ConnectionError:
            asker = Asker(socket.socket())
            asker.close()
        self._add(asker)
        return asker

    def _add(self, asker: Asker) -> None:
        self._belongings.callback(asker.sock.close)
        self.all.append(asker)

    @rule(
        asker=ClientModel.clients,
        lengths=Lengths,
        padding=st.sampled_from([0, 10, 10_000]),
        cut=st.booleans(),
    )
    def ask(self, asker: Asker, lengths: list[int], padding: int, cut: bool) -> None:
        if asker.here and asker.writes:
            asker.ask(lengths, padding, cut=cut)

    @rule(asker=ClientModel.clients)
    def complete(self, asker: Asker) -> None:
        if asker.here:
            asker.complete()

    @rule(asker=ClientModel.clients)
    def hear_out(self, asker: Asker) -> None:
        """Wait for the answers to all that was asked."""
        asker.reads = True
        self._hear(asker)

    @rule(signum=st.sampled_from([SIGTERM, SIGHUP, SIGINT, SIGQUIT]))
    def stop(self, signum: Signals) -> None:
        self._pump(until=lambda: True)
        now = time.monotonic()
        if self._stopped_at:
            if signum in {SIGINT, SIGQUIT}:
                self._hurried = now
        else:
            self._stopped_at, self._deadline = now, now + GRACE
            attentive = [asker for asker in self.all if asker.here and asker.reads]
            self._resting = [asker for asker in attentive if asker.at_rest]
            self._owed = {asker: asker.owed for asker in attentive}
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._ended, signum)

    @precondition(lambda self: self._may_restart())
    @rule()
    def restart(self) -> None:
        here = [asker for asker in self.all if asker.here and asker.writes]
        self.graced.signal(SIGUSR2)
        self._pump_to_the_end()
        assert self.graced.wait() == RESTARTED
        carried = [asker for asker in here if self._is_carried(asker)]
        sent_away = [asker for asker in here if asker not in carried]
        self._pump(until=lambda: not any(asker.here for asker in sent_away))
        self._start()
        for asker in carried:
            asker.ask([1], 0, cut=False)
            self._hear(asker)
            assert asker.here, f"{asker!r} was lost at the restart"

    def _is_carried(self, asker: Asker) -> bool:
        return self.carried if asker.sent else self.silent_carried

    def _may_restart(self) -> bool:
        return bool(self.all) and not self._stopped_at and all(asker.reads for asker in self.all)

    # What is always so.

    def pump(self) -> None:
        self._pump(until=lambda: True)

    def _pump(self, until: Callable[[], bool]) -> None:
        """Have every client read and write, until something is so."""
        patience = time.monotonic() + ENOUGH
        while True:
            poll = select.poll()
            poll.register(self._ended, select.POLLIN)
            for asker in self.all:
                asker.flush()
                asker.read()
                events = select.POLLIN * asker.reads | select.POLLOUT * asker.is_flushing
                if asker.here and events:
                    poll.register(asker.sock, events)
            if until():
                return
            assert time.monotonic() < patience, f"nothing comes any more: {self.all}"
            poll.poll(1000)

    def _hear(self, asker: Asker) -> None:
        self._pump(until=lambda: asker.answered or not asker.here)

    def _pump_to_the_end(self) -> None:
        poll = select.poll()
        poll.register(self._ended, select.POLLIN)
        self._pump(until=lambda: bool(poll.poll(0)))

    # What comes of it.

    def teardown(self) -> None:
        with self._belongings:
            self._finish()

    def _finish(self) -> None:
        if not self._stopped_at:
            self.stop(SIGTERM)
        self._pump_to_the_end()
        gone = time.monotonic()
        self._pump(until=lambda: not any(asker.here and asker.reads for asker in self.all))
        assert self.graced.wait() == 0
        # The signals may arrive in another order.
        if self.graced.log.count("ending the grace period now"):
            self._deadline = min(self._deadline, self._hurried or self._deadline)
        assert gone <= self._deadline + MOMENT, f"{gone - self._deadline} s after the deadline"
        for asker, owed in self._owed.items():
            self._check(asker, owed)
        if not any(asker.here for asker in self.all):
            last = max(self._stopped_at, *(asker.left_at for asker in self.all), 0.0)
            assert gone <= last + AT_ONCE, f"{gone - last} s after the last client"

    def _check(self, asker: Asker, owed: int) -> None:
        """What a client has received that was there and attentive when the server was stopped."""
        if asker.gone or not asker.reads:
            return
        if not self._hurried:
            assert len(asker.received) >= owed, f"{asker!r} was owed {owed} bytes"
        if asker in self._resting and asker.last_sent < self._stopped_at:
            assert asker.ended == "end"
            late = asker.left_at - self._stopped_at
            assert late < AT_ONCE, f"{asker!r} was at rest, and stayed for {late} s"


KINDS = {
    # Handler, and whether clients stay connected at a restart: those that have asked, and others.
    "Buffered": (False, True),
    "Movable": (True, True),
    "Stream": (False, True),
    "MovableStream": (True, True),
    "Asynchronous": (False, False),
    "MovableAsynchronous": (True, True),
    "coroutine": (False, False),
}


@pytest.mark.parametrize("name", KINDS)
def test_any_order_of_requests(name: str) -> None:
    carried, silent_carried = KINDS[name]
    attributes = {"handler": f"robustness.answering:{name}"}
    model = type(
        name, (Model,), attributes | {"carried": carried, "silent_carried": silent_carried}
    )
    run_steps(model, STEPS // len(KINDS), 20)
