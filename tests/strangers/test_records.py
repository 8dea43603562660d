"""The receiver of the logging cookbook, which never answers: what arrives counts, not what returns.

Its clients send a record when they have one, and hear nothing.  So no server can know whether
such a client is at rest or in the middle of a record.
"""

from __future__ import annotations

import logging
import logging.handlers
from contextlib import ExitStack
from pathlib import Path
from signal import SIGTERM, SIGUSR2

import pytest

from strangers import clients
from strangers.conversation import AT_ONCE, record
from strangers.service import (
    GRACE,
    KINDS,
    SHORT_GRACE,
    server,
    start,
)
from support import MACHINE, MOMENT, Client, FdStore, Graced


def host_and_port(graced: Graced) -> tuple[str, int]:
    host, _, port = graced.addresses[0].rpartition(":")
    return host, int(port)


def recorded(graced: Graced, text: str) -> bytes:
    """The bytes of a record with that text."""
    (turn,) = record(clients.records, text, graced.addresses[0])
    assert not turn.answered
    return turn.said


class Sender:
    """A program with a `logging.handlers.SocketHandler`, whose connection stays open."""

    def __init__(self, graced: Graced) -> None:
        self.handler = logging.handlers.SocketHandler(*host_and_port(graced))
        self.logger = logging.Logger("sender")
        self.logger.addHandler(self.handler)


@pytest.mark.parametrize("kind", KINDS)
def test_every_record_is_logged(kind: str, tmp_path: Path) -> None:
    with ExitStack() as belongings, server("records", kind, tmp_path, GRACE) as graced:
        data = recorded(graced, "cut")
        address = graced.addresses[0]
        silent, cut = (belongings.enter_context(Client.connect(address)) for _ in range(2))
        cut.send(data[:99])
        sender = Sender(graced)
        belongings.callback(sender.handler.close)
        sender.logger.error("a record, early")
        graced.log.wait_for("a record, early")
        graced.signal(SIGTERM)
        graced.log.wait_for("SIGTERM received")
        silent.sock.settimeout(AT_ONCE)
        silent.expect_end()
        silent.close()
        cut.send(data[99:])
        graced.log.wait_for("a record, cut", 2)
        cut.finish()
        assert cut.recv_to_end() == b""
        cut.close()
        sender.logger.error("a record, late")
        graced.log.wait_for("a record, late")
        sender.handler.close()
        assert graced.wait(AT_ONCE) == 0
        assert graced.stopped.closed == 0


@pytest.mark.parametrize("kind", KINDS)
def test_half_record_does_not_hold_up_stop(kind: str, tmp_path: Path) -> None:
    with server("records", kind, tmp_path, SHORT_GRACE) as graced:
        data = recorded(graced, "cut")
        with graced.connect() as cut, graced.connect() as whole:
            cut.send(data[:99])
            whole.send(data)
            graced.log.wait_for("a record, cut", 2)
            graced.signal(SIGTERM)
            # At end of file this handler spins, and competes with all that there is to do.
            assert graced.wait(SHORT_GRACE + MOMENT + MACHINE) == 0
            assert cut.recv_to_end() == whole.recv_to_end() == b""


def test_restart_loses_no_record(tmp_path: Path) -> None:
    store = FdStore()
    with store:
        with start("records", store, tmp_path) as first:
            sender = Sender(first)
            sender.logger.error("a record, early")
            first.log.wait_for("a record, early")
            first.signal(SIGUSR2)
            first.log.wait_for("SIGUSR2 received")
            sender.logger.error("a record, late")
            first.log.wait_for("a record, late")
            # As a program that ends, or one that rotates its connection.
            sender.handler.close()
            assert first.wait(AT_ONCE) == 79
        with start("records", store, tmp_path, listen=first.addresses[0]) as second:
            sender.logger.error("a record, next")
            second.log.wait_for("a record, next")
            sender.handler.close()
            assert second.stop() == 0
