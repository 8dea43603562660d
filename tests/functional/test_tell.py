"""``gracectl tell``: the goodbye to single clients, while all others are served."""

from __future__ import annotations

import json
import os
import re
import subprocess
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from signal import SIGTERM, SIGUSR2
from threading import Event, Thread
from typing import Any

import pytest

from support import FAREWELL, PASS, Client, FdStore, Graced, handlers, kinds
from support.control import Operator, environment_in, gracectl

GRACE = "[shutdown]\ngrace_period = 1.5\n"
OWN_DEADLINE = "told by an operator, closed after its grace period"
MANY = 50


def tell(*words: str, directory: Path) -> None:
    done = gracectl("tell", *words, directory=directory)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """The runtime directory, apart from the files of the test."""
    found = tmp_path / "run"
    found.mkdir()
    return found


def test_client_is_told_and_served_on_and_closed(handler: str, address: str, runtime: Path) -> None:
    with (
        Graced(
            "--handler", handler, listen=address, config=GRACE, env=environment_in(runtime)
        ) as graced,
        graced.served() as stays,
        graced.served() as client,
    ):
        for each in (stays, client):
            each.echo(b"hello")
        name = f"{address}#2" if address.startswith("unix:") else client.name
        done = gracectl("tell", name, directory=runtime)
        assert (done.returncode, done.stdout, done.stderr) == (0, "telling 1 client\n", "")
        client.expect_farewell_alone()
        client.echo(b"still served")
        # It is told once.
        done = gracectl("tell", name, "--json", directory=runtime)
        assert (done.returncode, json.loads(done.stdout)) == (1, {"told": 0})
        assert client.recv_to_end() == b""
        # asyncio handlers count the farewell.
        graced.log.wait_for(rf"closing connection from {re.escape(name)}: {OWN_DEADLINE}, (17|25) ")
        graced.log.wait_for(
            rf"user {os.getuid()} tells 1 client at the control socket, closing in 1.5 s$"
        )
        # The other has heard nothing, and hears it at the stop.
        stays.echo(b"still served")
        graced.signal(SIGTERM)
        stays.expect_farewell_alone()
        stays.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 0)


def test_silent_client_is_told(handler: str, tmp_path: Path) -> None:
    with (
        Graced("--handler", handler, env=environment_in(tmp_path)) as graced,
        graced.served() as client,
    ):
        tell("--host", "127.0.0.0/8", directory=tmp_path)
        client.expect_farewell_alone()
        client.echo(b"my first words")
        client.finish()
        client.expect_end()
        graced.log.wait_for(rf"closing connection from {client.name}: ")
        assert not graced.log.count(OWN_DEADLINE)


@pytest.mark.parametrize(
    "mute",
    [f"{handlers.HERE}:TutorialHandler", "support.streams:Echo", "support.asynchronous:echo"],
    ids=["blocking", "stream", "coroutine"],
)
@pytest.mark.parametrize("speaks", [True, False], ids=["at rest", "silent"])
def test_input_ends_where_no_farewell_is_declared(mute: str, speaks: bool, tmp_path: Path) -> None:
    """The handler finishes in its own words, and the connection ends without a reset."""
    with (
        Graced("--handler", mute, env=environment_in(tmp_path)) as graced,
        graced.served() as client,
        graced.served() as stays,
    ):
        name = client.name
        if speaks:
            client.echo(b"hello")
        tell(name, directory=tmp_path)
        client.expect_end()
        # As it comes too late, it is not answered, and it makes no reset of the end.
        client.send(b"too late")
        client.expect_end()
        client.close()
        graced.log.wait_for(rf"closing connection from {name}: ")
        stays.echo(b"still served")


@pytest.mark.parametrize("kind", ["stream", "asyncio"])
def test_handler_finds_its_own_words(kind: str, tmp_path: Path) -> None:
    env = {**environment_in(tmp_path), "KIND": kind}
    with (
        Graced("--handler", f"{kinds.HERE}:Named", env=env) as graced,
        graced.served() as client,
    ):
        client.echo(b"Ada")
        tell(client.name, directory=tmp_path)
        client.expect_farewell_alone(b"goodbye Ada")
        client.echo(b"Bob")


def test_answer_is_complete_before_the_farewell(tmp_path: Path) -> None:
    env = {**environment_in(tmp_path), "KIND": "stream"}
    with (
        Graced("--handler", f"{kinds.HERE}:Parts", env=env) as graced,
        graced.served() as client,
    ):
        client.send(b"?")
        tell(client.name, directory=tmp_path)
        assert client.recv_to_end() == b"part 0\npart 1\npart 2\n"


def test_client_that_never_pauses_is_told(handler: str, tmp_path: Path) -> None:
    """A farewell comes between two answers, and no byte is lost."""
    with (
        Graced("--handler", handler, env=environment_in(tmp_path)) as graced,
        graced.served() as client,
        ExitStack() as stack,
    ):
        client.echo(b"hello")
        teller = Thread(target=tell, args=(client.name,), kwargs={"directory": tmp_path})
        stack.callback(teller.join)
        teller.start()
        for number in count():
            message = b"message %d" % number
            client.send(message)
            received = client.recv_exactly(len(FAREWELL))
            if received == FAREWELL:
                assert client.recv_exactly(len(message)) == message
                break
            client.recv_exactly(len(message) - len(FAREWELL))


def test_client_that_takes_nothing_is_closed(tmp_path: Path) -> None:
    with (
        Graced(config=GRACE, env=environment_in(tmp_path)) as graced,
        graced.connect() as client,
        graced.served() as stays,
    ):
        client.send_until_full()
        tell("--phase", "write_blocked", directory=tmp_path)
        graced.log.wait_for(rf"closing connection from {client.name}: {OWN_DEADLINE}")
        stays.echo(b"still served")


def test_client_that_reads_late_gets_its_echo_and_then_the_farewell(tmp_path: Path) -> None:
    env = environment_in(tmp_path)
    with Graced("--grace", "30", env=env) as graced, graced.connect() as client:
        sent = client.send_until_full()
        tell(client.name, directory=tmp_path)
        assert client.recv_exactly(sent) == b"x" * sent
        client.expect_farewell_alone()
        client.echo(b"still served")


def test_many_are_told(handler: str, tmp_path: Path) -> None:
    with (
        Graced("--handler", handler, env=environment_in(tmp_path)) as graced,
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(graced.connect()) for _ in range(MANY)]
        for client in clients[::2]:
            client.echo(b"hello")
        with Operator.of(tmp_path) as operator:
            while operator.status()["clients"] < MANY:
                pass
        done = gracectl("tell", "--host", "127.0.0.1", directory=tmp_path)
        assert done.stdout == f"telling {MANY} clients\n"
        for client in clients:
            client.expect_farewell_alone()
            client.close()
        graced.log.wait_for("closing connection", MANY)
        assert graced.stop() == 0


def test_drain_takes_over(tmp_path: Path) -> None:
    """A stop has one deadline for all, and says its farewell once."""
    with (
        Graced("--grace", "3", env=environment_in(tmp_path)) as graced,
        graced.served() as told,
        graced.served() as other,
    ):
        tell(told.name, directory=tmp_path)
        told.expect_farewell_alone()
        told.echo(b"still served")
        graced.signal(SIGTERM)
        other.expect_farewell_alone()
        told.echo(b"still served")
        done = gracectl("tell", other.name, directory=tmp_path)
        assert (done.returncode, done.stdout) == (1, "telling 0 clients\n")
        for client in (told, other):
            assert client.recv_to_end() == b""
        assert graced.wait() == 0
        assert graced.stopped[1:] == (0, 2)
        assert not graced.log.count(OWN_DEADLINE)


@pytest.mark.parametrize(
    "movable",
    [
        "echo",
        "support.movable:OtherHandler",
        "support.streams:MovableEcho",
        "support.asynchronous:MovableEcho",
    ],
)
def test_restart_does_not_hand_over_a_told_client(
    movable: str, store: FdStore, tmp_path: Path
) -> None:
    """The next process would not know that it is told, and until when it may stay."""

    def start() -> dict[str, Any]:
        env = {**store.environment, **environment_in(tmp_path)}
        return {"env": env, "before": PASS, "pass_fds": store.descriptors}

    def talk(client: Client) -> None:
        client.send(b"?")
        assert client.recv() not in {b"", FAREWELL}

    with (
        Graced("--handler", movable, **start()) as first,
        first.served() as told,
        first.served() as other,
    ):
        for client in (told, other):
            talk(client)
        tell(told.name, directory=tmp_path)
        told.expect_farewell_alone()
        talk(told)
        first.signal(SIGUSR2)
        talk(told)
        assert told.recv_to_end() == b""
        assert first.wait() == 79
        with Graced("--handler", movable, **start()) as second:
            talk(other)
            second.signal(SIGTERM)
            other.expect_farewell_alone()


def test_clients_are_served_meanwhile(tmp_path: Path) -> None:
    """A client that is told and a client that is not share a thread, and neither waits."""
    with (
        Graced(env=environment_in(tmp_path)) as graced,
        graced.served() as told,
        graced.served() as other,
        ExitStack() as stack,
    ):
        ended = Event()
        served = []

        def serve(client: Client) -> None:
            while not ended.is_set():
                client.echo(b"still served")
                served.append(client)

        thread = Thread(target=serve, args=(other,))
        thread.start()
        stack.callback(thread.join)
        stack.callback(ended.set)
        tell(told.name, directory=tmp_path)
        told.expect_farewell_alone()
        before = len(served)
        told.echo(b"still served")
        while len(served) == before:
            pass


def test_nobody_is_told_by_mistake(tmp_path: Path) -> None:
    with Graced(env=environment_in(tmp_path)) as graced, graced.served() as client:
        done: subprocess.CompletedProcess[str] = gracectl("tell", directory=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("gracectl: name a client, or choose some by ")
        client.echo(b"still served")


def test_spread_is_for_the_stop_alone(handler: str, tmp_path: Path) -> None:
    """A client that is told alone waits for no turn, and gets none later."""
    config = "[shutdown]\nfarewell_spread = 2\ngrace_period = 5\n"
    with (
        Graced("--handler", handler, config=config, env=environment_in(tmp_path)) as graced,
        graced.served() as told,
        graced.served() as other,
    ):
        for client in (told, other):
            client.echo(b"hello")
        tell(told.name, directory=tmp_path)
        told.expect_farewell_alone()
        told.echo(b"still served")
        graced.signal(SIGTERM)
        other.expect_farewell_alone()
        # Nothing has come before this echo.
        told.echo(b"still served")
        for client in (told, other):
            client.close()
        assert graced.wait() == 0
