"""A server that serves, and a control thread that is asked about it."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from typing import Any

import pytest

from graced.control.rights import Rights
from graced.control.subject import Reload, Subject
from graced.control.thread import ControlThread
from graced.log import event
from graced.log.event import INFO
from graced.log.writer import Log
from graced.loop.admission import Admission
from graced.loop.policy import Policy
from graced.process.supervisor import Supervisor
from graced.process.tallies import Tallies
from graced.server import Server
from graced.signals import SignalInbox
from graced.sockets import binding
from graced.sockets.address import Address
from graced.systemd.notify import Notifier
from support import PATIENCE, Client
from support.control import Operator

ALL = Rights(user=0, may_look=True, may_act=True)


class Records:
    """A log that keeps the records."""

    def __init__(self) -> None:
        self.records: list[Any] = []

    def write(self, record: Any) -> None:
        self.records.append(record)

    def flush(self, timeout: float) -> None:
        pass


class Scene:
    """A server of the built-in echo, in the state that a control thread finds."""

    def __init__(self, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log = Records()
        log = Log(self.log, INFO)
        monkeypatch.setattr(event, "destination", log)
        inbox = stack.enter_context(SignalInbox())
        notifier = Notifier()
        stack.callback(notifier.close)
        listeners = binding.bind([Address.parse("127.0.0.1:0")], 1000)
        for listener in listeners:
            stack.callback(listener.close)
        self.server = Server(listeners, admission=Admission(1000, 500), policy=Policy(gap=0.0))
        stack.callback(self.server.close)
        stack.callback(self.server.stop)
        supervisor = Supervisor(self.server, inbox, notifier, grace=5.0)
        supervisor.start()
        self.reload = Reload()
        self.subject = Subject(
            server=self.server,
            supervisor=supervisor,
            stop=lambda: self.server.drain(time.monotonic() + 5.0),
            reload=lambda: self.reload,
            log=log,
            tallies=Tallies(log),
            name="graced@test",
            handler="echo",
            max_handler_threads=0,
            grace_period=5.0,
            inherited=None,
            since=time.monotonic(),
        )
        self.thread = ControlThread(self.subject)
        self._stack = stack
        stack.callback(self._end)

    def _end(self) -> None:
        if not self.thread.ident:
            self.thread.stop()
            self.thread.run()
            return
        self.thread.stop()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()

    def peer(self, rights: Rights = ALL, buffer: int = 0) -> Operator:
        """A peer with these rights; `buffer`: bytes on the way to it, about."""
        ours, theirs = socket.socketpair()
        operator = self._stack.enter_context(Operator(theirs))
        if buffer:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        ours.setblocking(False)
        if not self.thread.add(ours, rights):
            # As the endpoint does it: the last peer has gone.
            self.thread = ControlThread(self.subject)
            assert self.thread.add(ours, rights)
        if not self.thread.ident:
            self.thread.start()
        return operator

    def connect(self) -> Client:
        """A client that has been accepted."""
        host, port = self.server.server_address
        client = self._stack.enter_context(Client.connect(f"{host}:{port}"))
        client.echo(b"hello")
        return client
