"""The same as test_idle.py, counted by strace(1)."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import ExitStack

import pytest

from functional.test_idle import CLIENTS, SECONDS, quiet
from support import PATIENCE, Graced, Log, reserved_port, settled
from support.agent import ask

pytestmark = pytest.mark.needs("strace")


@pytest.mark.parametrize("with_agent", [False, True], ids=["", "with an agent"])
def test_with_idle_clients_there_is_no_system_call(with_agent: bool) -> None:
    with ExitStack() as stack:
        config = ""
        if with_agent:
            port = stack.enter_context(reserved_port())
            config = f"[server]\nagent = '127.0.0.1:{port}'\n"
        graced = stack.enter_context(Graced(config=config))
        if with_agent:
            graced.log.wait_for("answering agent checks")
            ask(port)
        clients = [stack.enter_context(graced.connect()) for _ in range(CLIENTS)]
        for client in clients[: CLIENTS // 2]:
            client.echo(b"hello")
        graced.log.wait_for("<6>connection from", CLIENTS)
        assert settled(graced.pid)
        read, write = os.pipe()
        strace = subprocess.Popen(
            ["strace", "-f", "-tt", "-p", str(graced.pid)],
            stdout=write,
            stderr=write,
        )
        os.close(write)
        trace = Log.of_pipe(read)
        try:
            trace.wait_for(r"attached")
            assert quiet(SECONDS, *(client.sock for client in clients))
            # What was going on when strace came is unfinished; nothing else is there.
            calls = trace.matches(r" resumed|\) += ")
            clients[0].echo(b"hello")
            trace.wait_for(r"sendto\(.*\) += 5")
        finally:
            strace.send_signal(signal.SIGINT)
            strace.wait(PATIENCE)
            trace.close()
        assert not calls, str(trace)
