"""Clients and signals in any order, and what the contract says about each of them.

A state machine of hypothesis connects clients to a running server, has them send, read, stall,
half-close, break off, vanish and come back, and sends signals in between; then it compares what
every client received with what it was unsent:

- each byte that a client sent in time came back, once and in order, if it was there to read it;
- the farewell was heard once, in between, after a stop signal and never before;
- who came during the drain heard it too, and was not reset;
- there was one drain, the exit status is 0, the server was gone half a second after the deadline,
  and the log has no traceback in it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import tempfile
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, Signals

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    consumes,
    initialize,
    precondition,
    rule,
)

from robustness.modelling import CONFIG, ENOUGH, GRACE, ClientModel, run_steps
from robustness.peer import Peer
from robustness.scale import scaled
from support import MOMENT, PATIENCE, Client, Graced

STEPS = scaled(300, 20_000)
"""Rules that are run, at least, over all kinds of servers."""

MARGIN = 0.5
"""What is sent so long before the deadline comes back."""
AT_ONCE = 0.1
"""Within which a server that the last client has left refuses new ones."""
LITTLE = 16 * 1024
"""So many bytes are under way at once, even if the client does not read for a moment."""

Sizes = st.one_of(
    st.integers(1, 200),
    st.sampled_from([1, 4096, 65536, 1 << 18, (1 << 18) + 1, 1 << 20]),
)


class Model(ClientModel):
    """The world of one server, from its start to its end."""

    def __init__(self, *options: str, config: str = "") -> None:
        super().__init__()
        directory = self._belongings.enter_context(tempfile.TemporaryDirectory())
        path = Path(directory) / "socket"
        self.graced = self._belongings.enter_context(
            Graced(*options, listen=["127.0.0.1:0", f"unix:{path}"], config=CONFIG + config)
        )
        self._ended = os.pidfd_open(self.graced.pid)
        self._belongings.callback(os.close, self._ended)
        # A connect that comes while the port is being closed may take a second to be refused.
        self._gone = 0.0
        self._watch = threading.Thread(target=self._wait_for_end)
        self._watch.start()
        self.all: list[Peer] = []
        self.signals: list[tuple[float, Signals]] = []
        self.leave = False

    def _wait_for_end(self) -> None:
        poll = select.poll()
        poll.register(self._ended, select.POLLIN)
        poll.poll()
        self._gone = time.monotonic()

    # What is done.

    @initialize(leave=st.booleans())
    def decide(self, leave: bool) -> None:
        """Whether the clients leave when they have been told."""
        self.leave = leave

    @rule(target=ClientModel.clients, number=st.integers(0, 1))
    def connect(self, number: int) -> Peer:
        return self._connect(number)

    @rule(peer=ClientModel.clients, size=Sizes)
    def send(self, peer: Peer, size: int) -> None:
        if peer.here and peer.writes:
            peer.send(size)

    @rule(peer=ClientModel.clients)
    def go_on(self, peer: Peer) -> None:
        peer.reads = True

    @rule(peer=consumes(ClientModel.clients))
    def vanish(self, peer: Peer) -> None:
        """A cable is cut: no more reading nor writing, and the server is not told."""
        peer.reads = peer.writes = False

    @rule(target=ClientModel.clients, peer=consumes(ClientModel.clients), number=st.integers(0, 1))
    def reconnect(self, peer: Peer, number: int) -> Peer:
        if peer.here:
            peer.close()
        return self._connect(number)

    @rule(peer=ClientModel.clients)
    def hear_out(self, peer: Peer) -> None:
        """Wait for the echo of all that was sent."""
        peer.reads = True
        self._pump(until=partial(self._answered, peer))

    @precondition(lambda self: self._stops())
    @rule(peer=ClientModel.clients)
    def await_farewell(self, peer: Peer) -> None:
        peer.reads = True
        self._pump(until=lambda: peer.told or not peer.here)

    @rule(signum=st.sampled_from([SIGTERM, SIGHUP, SIGINT, SIGQUIT]))
    def stop(self, signum: Signals) -> None:
        self._signal(signum)

    @rule()
    def ask(self) -> None:
        self._signal(SIGUSR1)

    # What is always so.

    def pump(self) -> None:
        self._pump(until=lambda: True)

    def _pump(self, until: object) -> None:
        """Have all read that read, until something is so or cannot become so."""
        assert callable(until)
        patience = time.monotonic() + ENOUGH
        while True:
            poll = select.poll()
            poll.register(self._ended, select.POLLIN)
            for peer in self._listening():
                poll.register(peer.sock, select.POLLIN)
            for peer in self._listening():
                peer.read()
                peer.check(stopping=bool(self._stops()))
                if self.leave and peer.told and self._answered(peer) and peer.here:
                    peer.close()
            if until():
                return
            assert time.monotonic() < patience, f"nothing comes any more: {self.all}"
            poll.poll(1000)

    def _listening(self) -> list[Peer]:
        return [peer for peer in self.all if peer.here and peer.reads]

    def _answered(self, peer: Peer) -> bool:
        return peer.echoed >= peer.sent or not peer.here

    def _connect(self, number: int) -> Peer:
        try:
            sock = Client.connect(self.graced.addresses[number]).sock
        except (ConnectionError, FileNotFoundError):
            assert self._stops(), "refused, and nobody had asked to stop"
            sock = socket.socket()
            peer = Peer(sock, late=True)
            peer.close()
            return peer
        peer = Peer(sock, late=bool(self._stops()))
        self.all.append(peer)
        return peer

    def _signal(self, signum: Signals) -> None:
        self.signals.append((time.monotonic(), signum))
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._ended, signum)

    def _stops(self) -> list[tuple[float, Signals]]:
        return [(when, signum) for when, signum in self.signals if signum != SIGUSR1]

    # What comes of it.

    def teardown(self) -> None:
        with self._belongings:
            # Whatever is found: it has ended before the descriptor goes that is waited at.
            self._belongings.callback(self._watch.join)
            self._belongings.callback(self.graced.process.kill)
            for peer in self.all:
                self._belongings.callback(peer.sock.close)
            self._finish()

    def _finish(self) -> None:
        if not self._stops():
            for peer in self._listening():
                self._pump(until=partial(self._answered, peer))
            self._signal(SIGTERM)
        attentive = time.monotonic()
        self._pump_to_the_end()
        self._watch.join()
        assert self.graced.wait() == 0
        deadline = self._check_log(self._gone)
        for peer in self.all:
            if peer.reads and not peer.gone:
                self._check_peer(peer, deadline, attentive)

    def _pump_to_the_end(self) -> None:
        poll = select.poll()
        poll.register(self._ended, select.POLLIN)
        self._pump(until=lambda: not self._listening() or poll.poll(0))
        assert poll.poll(PATIENCE * 1000), "does not end"
        self._pump(until=lambda: not self._listening())

    def _check_log(self, gone: float) -> float:
        """How the server says that it went; returns when its time was over."""
        log = self.graced.log
        assert log.count("received, closing in ") == 1, str(log)
        assert "stopped after" in log.lines[-1], str(log)
        stops = self._stops()
        hurried = log.count("ending the grace period now")
        again = log.count("received, already closing")
        assert 1 + again + hurried <= len(stops)
        deadline = stops[0][0] + GRACE
        if hurried:
            # Which of those it was cannot be told; the last is late enough, the first too early.
            impatient = [when for when, signum in stops if signum in {SIGINT, SIGQUIT}]
            deadline = min(deadline, impatient[-1])
            assert gone <= deadline + MOMENT, f"{gone - deadline} s after the deadline"
            return min(deadline, impatient[0])
        assert gone <= deadline + MOMENT, f"{gone - deadline} s after the deadline"
        return deadline

    def _check_peer(self, peer: Peer, deadline: float, attentive: float) -> None:
        peer.check(stopping=True)
        all_back = peer.echoed == peer.sent
        early = peer.left_at < deadline
        in_time = deadline - MARGIN
        if peer.ended == "reset":
            # Nothing but bytes that nobody was to read any more makes the kernel say so.
            unread = peer.sent > peer.sent_before(in_time) or peer.late or attentive > in_time
            assert unread, f"{peer!r} was reset"
        if early and not peer.late:
            assert not peer.writes, f"{peer!r} was closed before its time"
            assert all_back, f"{peer!r} was closed without an answer"
        unsent = peer.sent_before(in_time)
        if attentive > in_time and unsent - peer.echoed > LITTLE:
            return
        if not peer.late:
            assert peer.echoed >= unsent, f"{peer!r} was unsent {unsent} bytes"
        if peer.writes and not (peer.late and self._too_late(peer, in_time)):
            assert peer.told, f"{peer!r} was not told"

    def _too_late(self, peer: Peer, in_time: float) -> bool:
        """Whether it came when the deadline had passed, or a moment ago the last client had left.

        Between the last look at the queue of connections and its end there is a moment in which
        the kernel takes one more, and resets it.
        """
        if peer.since > in_time:
            return True
        others = [other.left_at for other in self.all if other.since < peer.since]
        idle_since = max(self._stops()[0][0], *others, 0.0)
        return all(others) and peer.since - idle_since < AT_ONCE


class Threaded(Model):
    """With a thread for each client."""

    def __init__(self) -> None:
        super().__init__("--handler", "echo-threaded")


class TwoThreads(Model):
    """With two I/O threads, as there are where Python has no GIL."""

    def __init__(self) -> None:
        super().__init__(config="[server]\nio_threads = 2")


class Stream(Model):
    """With a stream handler."""

    def __init__(self) -> None:
        super().__init__("--handler", "support.streams:TellingEcho")


class Asynchronous(Model):
    """On an asyncio loop."""

    def __init__(self) -> None:
        super().__init__("--handler", "support.asynchronous:Polite")


KINDS = {
    "echo": Model,
    "echo-threaded": Threaded,
    "two I/O threads": TwoThreads,
    "stream": Stream,
    "asyncio": Asynchronous,
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_any_order_of_events(kind: type[Model]) -> None:
    run_steps(kind, STEPS // len(KINDS), 30)
