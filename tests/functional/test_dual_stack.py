"""An IPv4 client of a socket that serves both families has one notation in the log.

Such a socket comes from a socket unit: graced itself binds one for each family.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from signal import SIGTERM, SIGUSR2
from typing import Any

import pytest

from support import PASS, Client, FdStore, Graced

MAPPED = "::ffff:"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as sock:
        yield sock


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


def test_host_is_one_host_by_both_listeners(store: FdStore, listener: socket.socket) -> None:
    """The limit counts an IPv4 client of either together, over a restart too."""
    config = "[limits]\nmax_clients_per_host = 2\n"
    with socket.create_server(("127.0.0.1", 0)) as plain, ExitStack() as stack:
        names = [f"127.0.0.1:{each.getsockname()[1]}" for each in (listener, plain)]

        def start() -> Graced:
            more = manager(store, listener)
            more["pass_fds"].append(plain.fileno())
            env = more["env"]
            env["LISTEN_FDS"] = str(len(more["pass_fds"]))
            env["LISTEN_FDNAMES"] += ":plain"
            env["PASSED"] += f" {plain.fileno()}"
            return Graced(listen=[], config=config, **more)

        with start() as first:
            for name in names:
                stack.enter_context(Client.connect(name)).echo(b"hello")
            for count, name in enumerate(names, 1):
                with Client.connect(name) as refused:
                    refused.expect_farewell_alone()
                    refused.expect_end()
                first.log.wait_for("^<4>.*refused.*127.0.0.1:", count)
            first.signal(SIGUSR2)
            assert first.wait() == 79
            assert MAPPED not in str(first.log)
        with start() as second:
            for name in names:
                with Client.connect(name) as refused:
                    refused.expect_farewell_alone()
            second.log.wait_for("^<4>.*refused.*127.0.0.1:")
            assert MAPPED not in str(second.log)
