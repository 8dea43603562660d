"""An IPv4 client of a socket that serves both families has one notation in the log.

Such a socket comes from a socket unit: graced itself binds one for each family.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from signal import SIGTERM, SIGUSR2
from typing import Any

import pytest

from support import PASS, Client, FdStore, Graced

MAPPED = "::ffff:"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as sock:
        yield sock


@pytest.fixture
def store() -> Iterator[FdStore]:
    found = FdStore()
    with found:
        yield found


def manager(store: FdStore, listener: socket.socket) -> dict[str, Any]:
    """What the service manager gives a process: the socket of the socket unit, and the store."""
    passed = [listener.fileno(), *store.descriptors]
    env = {
        **store.environment,
        "LISTEN_FDS": str(len(passed)),
        "LISTEN_FDNAMES": ":".join(["graced.socket", *store.names]),
        "PASSED": " ".join(map(str, passed)),
    }
    return {"env": env, "before": PASS, "pass_fds": passed}


@pytest.mark.parametrize(
    ("handler", "failure"),
    [("Hopeless", "no words"), ("Failing", "broken")],
    ids=["farewell fails", "handler fails"],
)
def test_failing_handler_has_clients_in_one_notation(
    store: FdStore, listener: socket.socket, handler: str, failure: str
) -> None:
    """A client of the process, and one that it has inherited."""
    options = ("--handler", f"support.foreign:{handler}", "--log-level", "debug")
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    with Graced(*options, listen=[], **manager(store, listener)) as first:
        inherited = Client.connect(address)
        first.log.wait_for("connection from 127.0.0.1:")
        first.signal(SIGUSR2)
        assert first.wait() == 79
        assert MAPPED not in str(first.log)
    with (
        inherited,
        Graced(*options, listen=[], **manager(store, listener)) as second,
        Client.connect(address) as new,
    ):
        second.tracebacks = True
        for client in (inherited, new):
            client.send(b"hello\n")
            if handler == "Hopeless":
                assert client.recv_exactly(6) == b"HELLO\n"
        if handler == "Hopeless":
            second.signal(SIGTERM)
        for client in (inherited, new):
            name = re.escape(client.name)
            second.log.wait_for(rf"^<3>the handler of {name} failed: ValueError: {failure}$")
            client.close()
        if handler != "Hopeless":
            second.signal(SIGTERM)
        assert second.wait() == 0
        assert MAPPED not in str(second.log)
