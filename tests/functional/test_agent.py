"""Agent checks of HAProxy, in the service."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path
from signal import SIGINT, SIGTERM, SIGUSR2

import pytest

from support import PASS, Daemon, FdStore, Graced, reserved_port, run_graced
from support.agent import ask
from support.control import Operator, environment_in

KINDS = pytest.mark.parametrize("kind", [Graced, Daemon], ids=["foreground", "daemon"])
ANSWERS = r"^<6>answering agent checks of HAProxy on 127\.0\.0\.1:\d+$"


def config(port: int, more: str = "") -> str:
    return f"[server]\nagent = '127.0.0.1:{port}'\n{more}"


@KINDS
def test_weight_follows_the_clients(kind: type[Graced | Daemon]) -> None:
    with (
        reserved_port() as port,
        kind(config=config(port, "[limits]\nmax_clients = 4\n")) as graced,
        ExitStack() as stack,
    ):
        graced.log.wait_for("answering agent checks")
        for percent in (100, 75, 50, 25, 0):
            assert ask(port) == f"up ready {percent}%\n".encode()
            stack.enter_context(graced.connect())
            graced.log.wait_for("connection from|refused", 5 - percent // 25)


def test_checks_are_no_clients(tmp_path: Path) -> None:
    with (
        reserved_port() as port,
        Graced(config=config(port), env=environment_in(tmp_path)) as graced,
    ):
        graced.log.wait_for(ANSWERS)
        for _ in range(3):
            ask(port)
        with Operator.of(tmp_path) as operator:
            found = operator.status()
        assert (found["admitted"], found["probes"], found["listeners"]) == (0, 0, graced.addresses)
        assert not graced.log.count("connection from")


@pytest.mark.parametrize("options", [(), ("--check-config",)], ids=["start", "check"])
def test_address_of_the_clients_is_none_for_the_agent(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "graced.toml"
    with reserved_port() as port:
        file.write_text(config(port))
        done = run_graced("--config", str(file), "--listen", f"127.0.0.1:{port}", *options)
    assert done.returncode == 78
    assert f"server.agent: 127.0.0.1:{port} and 127.0.0.1:{port} overlap" in done.stderr


@pytest.mark.parametrize("options", [(), ("--check-config",)], ids=["start", "check"])
@pytest.mark.parametrize(
    "address", ["unix:/run/agent", "127.0.0.1:0", "224.0.0.1:9", "here", "[::1]"]
)
def test_address_of_an_agent_is_checked(
    address: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "graced.toml"
    file.write_text(f"[server]\nagent = '{address}'\n")
    done = run_graced("--config", str(file), *options)
    assert done.returncode == 78
    assert f"{file}: server.agent must" in done.stderr


def test_restart_binds_the_address_anew(store: FdStore) -> None:
    with (
        reserved_port() as port,
        Graced(config=config(port), env=store.environment) as first,
        first.served() as client,
    ):
        first.log.wait_for(ANSWERS)
        client.echo(b"hello")
        first.signal(SIGUSR2)
        assert first.wait() == 79
        with Graced(
            config=config(port),
            listen=first.addresses,
            env=store.environment,
            before=PASS,
            pass_fds=store.descriptors,
        ) as second:
            second.log.wait_for(ANSWERS)
            assert ask(port).startswith(b"up ready ")
            client.echo(b"still there")
            assert store.names.count("graced-listeners") == 1


def test_restart_goes_on_without_an_address_that_another_has_taken(store: FdStore) -> None:
    with (
        reserved_port() as port,
        Graced(config=config(port), env=store.environment) as first,
        first.served() as client,
    ):
        first.log.wait_for(ANSWERS)
        client.echo(b"hello")
        first.signal(SIGUSR2)
        assert first.wait() == 79
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))
            other.listen()
            with Graced(
                config=config(port),
                listen=first.addresses,
                env=store.environment,
                before=PASS,
                pass_fds=store.descriptors,
            ) as second:
                second.log.wait_for(
                    f"^<4>cannot listen on 127.0.0.1:{port}: Address already in use;"
                    " the service serves the rest$"
                )
                client.echo(b"still there")
                second.signal(SIGTERM)
                client.expect_farewell_alone()
                client.close()
                assert second.wait() == 0


def test_address_in_use_refuses_a_first_start(tmp_path: Path) -> None:
    file = tmp_path / "graced.toml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file.write_text(config(port))
        done = run_graced("--config", str(file), "--listen", "127.0.0.1:0")
    assert done.returncode == 69
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr


def test_balancer_is_told_to_look_away() -> None:
    lame = "[shutdown]\nlame_duck = 3600\ngrace_period = 3600\n"
    with (
        reserved_port() as port,
        Graced(config=config(port, lame)) as graced,
        graced.served() as client,
    ):
        graced.log.wait_for(ANSWERS)
        assert ask(port) == b"up ready 100%\n"
        graced.signal(SIGTERM)
        graced.log.wait_for("the drain begins in")
        assert ask(port) == b"drain\n"
        graced.signal(SIGINT)
        client.expect_farewell_alone()
        assert ask(port) == b"drain\n"
        client.close()
        assert graced.wait() == 0
        with pytest.raises(ConnectionRefusedError):
            ask(port)
