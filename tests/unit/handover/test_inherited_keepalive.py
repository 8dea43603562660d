"""The keepalive of clients that a process inherits."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack
from typing import Any

import pytest

from graced.handover import fd_bundle, inherited
from graced.handover.inherited import Inherited
from graced.handover.snapshot import encode
from graced.sockets.accepted import KeepAlive, set_up_clients
from handover.last_process import COUNTS, FROZEN, KINDS, LastProcess


@pytest.mark.parametrize(
    "before",
    [
        KeepAlive(idle=0, user_timeout=0),
        KeepAlive(idle=7, interval=6, count=3, user_timeout=9),
        KeepAlive(idle=7, interval=5, count=4, user_timeout=9),
    ],
    ids=["none", "interval", "count"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_client_gets_the_keepalive_of_this_configuration(
    stack: ExitStack, last: LastProcess, kind: str, before: KeepAlive
) -> None:
    """The last process had another configuration, or was of a version without keepalive."""
    client, _ = last.client(kind)
    last.clients([client], encode([client], FROZEN, COUNTS))
    if kind != "unix":
        set_up_clients(client.sock, before)
    found = Inherited(last.passed, KeepAlive(idle=7, interval=5, count=3, user_timeout=9))
    found.close()
    (ours,) = found.clients
    stack.enter_context(ours.sock)
    if kind != "unix":
        sock = ours.sock
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 5
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 9000
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE)


def test_keepalive_that_cannot_be_set_is_one_warning(
    stack: ExitStack,
    last: LastProcess,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The clients are served all the same."""
    clients = [last.client("127.0.0.1")[0] for _ in range(3)]
    last.clients(clients, encode(clients, FROZEN, COUNTS))

    def refuse(*_arguments: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(socket.socket, "setsockopt", refuse)
    # SO_PEEK_OFF is such an option.
    monkeypatch.setattr(inherited, "keeps_descriptors", lambda _bundle: True)
    monkeypatch.setattr(fd_bundle, "keeps_descriptors", lambda _bundle: False)
    start = Inherited(last.passed, KeepAlive(idle=7))
    start.close()
    found = start.clients
    assert len(found) == 3
    for each in found:
        stack.enter_context(each.sock)
    (record,) = caplog.records
    assert record.getMessage().endswith("keep the old keepalive: Operation not permitted")
