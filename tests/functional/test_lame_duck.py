"""The lame duck: readiness goes first, and the drain comes when load balancers have looked away."""

from __future__ import annotations

from pathlib import Path
from signal import SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, Signals
from time import monotonic

import pytest

from support import PASS, FdStore, Graced, NotifySocket
from support.control import CONTROL, Operator, environment_in

LAME_DUCK = 1.5
SHORT = f"[shutdown]\nlame_duck = {LAME_DUCK}\ngrace_period = 3600\n"
LONG = "[shutdown]\nlame_duck = 3600\ngrace_period = 3600\n"
BEGINS = r"^<6>(\w+) received, the drain begins in ([\d.]+) s, (\d+) clients? now$"
CLOSING = r"^<6>closing in (\d+) s, (\d+) clients? remaining$"
RECEIVED = r"^<6>(\w+) received, closing in 3600 s"


@pytest.mark.parametrize("signum", [SIGTERM, SIGHUP])
def test_new_clients_are_served_and_then_told(signum: Signals, handler: str, address: str) -> None:
    with (
        Graced("--handler", handler, listen=address, config=SHORT) as graced,
        graced.served() as old,
    ):
        began = monotonic()
        graced.signal(signum)
        assert graced.log.wait_for(BEGINS).groups() == (signum.name, f"{LAME_DUCK:g}", "1")
        with graced.connect() as new:
            new.echo(b"hello")
            old.echo(b"hello")
            for client in (new, old):
                client.expect_farewell_alone()
                assert monotonic() >= began + LAME_DUCK
            assert graced.log.wait_for(CLOSING).groups() == ("3600", "2")
        old.close()
        assert graced.wait() == 0
        # From the beginning of the drain on.
        assert graced.stopped.seconds < LAME_DUCK
        assert graced.stopped[1:] == (2, 0)


def test_service_manager_hears_first_and_is_asked_for_the_time(
    notify_socket: NotifySocket,
) -> None:
    with (
        Graced(config=SHORT, env=notify_socket.environment) as graced,
        graced.served() as client,
    ):
        notify_socket.wait_for("1 client now")
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        client.close()
        assert graced.wait() == 0
    found = [message.text for message in notify_socket.messages]
    first = next(n for n, text in enumerate(found) if text.startswith("STOPPING=1"))
    extending = "\nEXTEND_TIMEOUT_USEC=10000000"
    status = "STATUS=lame duck: 1 client now, new ones are served for"
    assert found[first] == f"STOPPING=1\n{status} 2 s more{extending}"
    assert found[first + 1] == f"{status} 1 s more{extending}"
    assert found[first + 2] == (
        f"STOPPING=1\nSTATUS=draining: 1 client remaining, 3600 s to go{extending}"
    )


def test_long_wait_is_asked_for_again_and_again(notify_socket: NotifySocket) -> None:
    with Graced(config=LONG, env=notify_socket.environment) as graced:
        graced.signal(SIGTERM)
        notify_socket.wait_for("EXTEND_TIMEOUT_USEC=10000000", 4)


@pytest.mark.parametrize("second", [SIGINT, SIGQUIT])
def test_impatient_signal_ends_the_wait_and_the_next_the_grace_period(second: Signals) -> None:
    with Graced(config=LONG) as graced, graced.served() as client:
        graced.signal(SIGTERM)
        graced.log.wait_for(BEGINS)
        graced.signal(second)
        assert graced.log.wait_for(RECEIVED)[1] == second.name
        client.expect_farewell_alone()
        client.echo(b"hello")
        graced.signal(second)
        client.expect_end()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (0, 1)


def test_other_signals_change_nothing(notify_socket: NotifySocket) -> None:
    with (
        Graced(config=LONG, env=notify_socket.environment) as graced,
        graced.served() as client,
    ):
        graced.signal(SIGTERM)
        graced.log.wait_for(BEGINS)
        for signum in (SIGTERM, SIGHUP, SIGUSR2):
            graced.signal(signum)
            graced.log.wait_for(f"^<6>{signum.name} received, already closing$")
        graced.signal(SIGUSR1)
        graced.log.wait_for(r"^<6>lame duck: 1 client now, new ones are served for 3\d\d\d s more$")
        client.echo(b"hello")
        with graced.connect() as new:
            new.echo(b"hello")


@pytest.mark.parametrize("first", [SIGINT, SIGQUIT])
def test_impatient_signal_begins_the_drain_at_once(first: Signals) -> None:
    with Graced(config=LONG) as graced, graced.served() as client:
        graced.signal(first)
        client.expect_farewell_alone()
        client.close()
        assert graced.wait() == 0
        assert not graced.log.count(BEGINS)


@pytest.mark.parametrize("lame", [False, True], ids=["serving", "lame duck"])
def test_drain_of_an_operator_begins_at_once(lame: bool, tmp_path: Path) -> None:
    with (
        Graced(config=LONG, env=environment_in(tmp_path)) as graced,
        graced.served() as client,
        Operator.of(tmp_path) as operator,
    ):
        if lame:
            graced.signal(SIGTERM)
            graced.log.wait_for(BEGINS)
            assert operator.status()["state"] == "lame_duck"
        operator.send(f"{CONTROL}.Drain", more=True)
        client.expect_farewell_alone()
        client.close()
        while operator.reply().get("continues"):
            pass
        assert graced.wait() == 0
        assert graced.log.count(BEGINS) == lame


def test_restart_that_hands_clients_over_has_none(store: FdStore) -> None:
    with Graced(config=LONG, env=store.environment) as graced, graced.served() as client:
        client.echo(b"hello")
        graced.signal(SIGUSR2)
        assert graced.wait() == 79
        with Graced(
            config=LONG,
            listen=graced.addresses,
            env=store.environment,
            before=PASS,
            pass_fds=store.descriptors,
        ):
            client.echo(b"still there")
        assert not graced.log.count(BEGINS)


def test_restart_that_hands_over_nobody_has_one(store: FdStore) -> None:
    """All clients will be told, so that the balancer should look away."""
    config = SHORT + "[continuity]\nkeep = 'never'\n"
    with Graced(config=config, env=store.environment) as graced, graced.served() as client:
        graced.signal(SIGUSR2)
        assert graced.log.wait_for(BEGINS)[1] == "SIGUSR2"
        client.echo(b"hello")
        client.expect_farewell_alone()
        client.close()
        assert graced.wait() == 0
