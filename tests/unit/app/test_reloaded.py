"""The new process of a reload, with a test in the place of the old one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from graced.app.offer import Invitation, Offer
from graced.app.reloaded import Reloaded
from graced.log.event import INFO
from graced.log.writer import Log
from graced.loop.admission import Admission
from graced.process.tallies import Tallies
from graced.reload.channel import Channel
from graced.reload.counts import Counts
from graced.reload.new_side import State
from graced.reload.table import Message
from graced.signals import SignalInbox
from support import PATIENCE


class Service:
    """What the new process serves with."""

    def __init__(self) -> None:
        self.admission = Admission(10, 0)
        self.tallies = Tallies(Log(SimpleNamespace(), INFO))
        self.note = ""
        self.echoed = 0

    def attend(self, reloaded: Reloaded) -> None:
        pass

    def restore_counts(self, counts: tuple[int, int, int, int]) -> None:
        self.admission.add(counts[0], *counts[2:])
        self.echoed += counts[1]

    def begin(self, reloaded: Reloaded) -> None:
        parts: Any = self
        reloaded.begin(parts, parts, parts, self.tallies, None)


@pytest.fixture
def old() -> Iterator[tuple[Channel, Reloaded]]:
    """The end of the old process, and a new one that has got its offer."""
    with ExitStack() as stack:
        ours, theirs = Channel.pair()
        stack.callback(ours.close)
        stack.callback(theirs.close)
        # It would be killed if it were late.
        command = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        stack.enter_context(command)
        stack.callback(command.kill)
        process = os.pidfd_open(command.pid)
        stack.callback(os.close, process)
        reloaded = Reloaded(Invitation(theirs, process, {}))
        stack.callback(reloaded.close)
        inbox = stack.enter_context(SignalInbox())
        ours.send(Message.OFFER, descriptors=[process, process])

        def claim(offer: Offer) -> None:
            os.close(offer.pid_file)
            os.close(offer.stderr)

        assert reloaded.get_offer(inbox, claim)
        yield ours, reloaded


def get_ready(reloaded: Reloaded, service: Service) -> None:
    """Wait for the commit in a thread: in the main thread a mistake would wait for ever."""
    accept = lambda: service.begin(reloaded)  # noqa: E731
    speaks: Any = True
    arguments = speaks, accept
    thread = threading.Thread(target=reloaded.get_ready, args=arguments, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_commit_may_come_together_with_the_end_of_the_move(
    old: tuple[Channel, Reloaded],
) -> None:
    channel, reloaded = old
    channel.send(Message.COMMIT)
    channel.send(Message.MOVED, {"remaining": 1, "within": 60})
    get_ready(reloaded, service := Service())
    assert reloaded.state is State.DRAINING_REST
    assert service.note == "; the old process drains 1 client"


def test_counts_go_on_and_none_counts_twice(old: tuple[Channel, Reloaded]) -> None:
    channel, reloaded = old
    service = Service()
    counts = Counts((5, 40, 1, 3), {"refused max_clients": 3, "handovers 0": 1})
    channel.send(Message.COMMIT, data=counts.encode())
    get_ready(reloaded, service)
    assert service.admission.refused_by == {"max_clients": 3}
    service.admission.refuse("max_clients = 10 reached")
    counts = Counts((6, 50, 1, 5), {"refused max_clients": 4, "refused a b": 1, "handovers 0": 1})
    channel.send(Message.MOVED, {"within": 60}, data=counts.encode())
    reloaded.look()
    assert reloaded.state is State.DRAINING_REST
    assert service.admission.refused_by == {"max_clients": 5, "a b": 1}
    assert (service.admission.admitted, service.echoed) == (6, 50)
    assert (service.admission.probes, service.admission.refused) == (1, 6)
    assert service.tallies.handovers[0] == 1
