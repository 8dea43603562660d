"""Stream handlers: what is imported, the hooks, and a handler that is replaced.

What holds for protocols of either kind is in `test_callbacks`.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from signal import SIGTERM, SIGUSR2
from typing import Any

import pytest

from support import PASS, FdStore, Graced
from support.process import environment
from support.streams import HERE

GAP = 0.1
"""Seconds of silence around a farewell."""


def plugin(name: str) -> tuple[str, str]:
    return ("--handler", f"{HERE}:{name}")


@pytest.mark.parametrize(
    ("code", "module"),
    [
        ("from graced.handlers.finder import find; find('support.streams:Echo', b'')", "asyncio"),
        ("import graced.app.service", "graced.loop.transport"),
    ],
)
def test_module_is_not_imported(code: str, module: str) -> None:
    """asyncio is not for a stream handler, and the transport not for the echo."""
    code = f"import sys, graced.server; {code}; print({module!r} in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, check=True, text=True
    )
    assert result.stdout == "False\n"


@pytest.mark.parametrize("threads", [1, 2])
def test_hooks(threads: int) -> None:
    """At a restart the hook `restored` speaks before any handler goes on, and only then."""
    config = f"[server]\nio_threads = {threads}\n"
    with ExitStack() as stack:
        store = FdStore()
        stack.enter_context(store)

        def start(listen: str) -> Graced:
            options: dict[str, Any] = {"before": PASS, "pass_fds": store.descriptors}
            env = store.environment
            graced = Graced(*plugin("Roll"), listen=listen, config=config, env=env, **options)
            return stack.enter_context(graced)

        first = start("127.0.0.1:0")
        first.log.wait_for("the roll is open")
        clients = [stack.enter_context(first.connect()) for _ in range(5)]
        for client in clients:
            client.echo(b"hello")
        first.signal(SIGUSR2)
        assert first.wait() == 79
        for client in clients:
            client.send(b"again")
        second = start(first.addresses[0])
        for client in clients:
            assert client.recv_exactly(12) == b"5 back\nagain"
            client.close()
        assert second.stop(SIGTERM) == 0
        second.log.wait_for("the roll is closed")


def test_successor_is_not_asked_for_the_state_of_the_class() -> None:
    """A client that was left to another protocol hears the goodbye; the others stay."""
    with ExitStack() as stack:
        store = FdStore()
        stack.enter_context(store)
        first = stack.enter_context(Graced(*plugin("Switching"), env=store.environment))
        (address,) = first.addresses
        stays, switches = (stack.enter_context(first.connect()) for _ in range(2))
        stays.echo(b"hello")
        switches.echo(b"switch")
        first.signal(SIGUSR2)
        assert switches.recv_to_end() == b""
        switches.close()
        assert first.wait() == 79
        assert not first.log.count("failed")
        passed: dict[str, Any] = {"before": PASS, "pass_fds": store.descriptors}
        env = store.environment
        second = Graced(*plugin("Switching"), listen=address, env=env, **passed)
        stack.enter_context(second)
        stays.echo(b"again")
