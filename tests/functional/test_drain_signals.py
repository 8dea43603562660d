"""Signals in the drain, and during the start: which change something, and what they change."""

from __future__ import annotations

from signal import SIGINT, SIGTERM, Signals

import pytest

from support import MOMENT, Client, Graced


@pytest.mark.parametrize("signame", ["SIGINT", "SIGQUIT"])
def test_impatient_signal_ends_grace_period(signame: str, handler: str) -> None:
    with Graced("--grace", "600", "--handler", handler) as graced, graced.served() as client:
        graced.signal(Signals[signame])
        client.expect_farewell_alone()
        graced.signal(Signals[signame])
        client.expect_end()
        assert graced.wait() == 0
        graced.log.wait_for(f"{signame} received again, ending the grace period now")
        assert graced.stopped.seconds < 60
        assert graced.stopped[1:] == (0, 1)


@pytest.mark.parametrize("first", ["SIGTERM", "SIGHUP"])
def test_sigint_ends_grace_period_that_another_signal_began(first: str) -> None:
    with Graced("--grace", "600") as graced, graced.served() as client:
        graced.signal(Signals[first])
        client.expect_farewell_alone()
        assert graced.stop(SIGINT) == 0


@pytest.mark.parametrize(("first", "second"), [("TERM", "TERM"), ("HUP", "HUP"), ("INT", "TERM")])
def test_patient_signal_changes_nothing(first: str, second: str) -> None:
    with Graced("--grace", "1") as graced, graced.served() as client:
        graced.signal(Signals[f"SIG{first}"])
        client.expect_farewell_alone()
        for number in (1, 2):
            graced.signal(Signals[f"SIG{second}"])
            graced.log.wait_for(f"^<6>SIG{second} received, already closing$", number)
        client.echo(b"still here")
        assert graced.wait() == 0
        assert 1 <= graced.stopped.seconds < 1 + MOMENT


@pytest.mark.parametrize("order", [("HUP", "TERM"), ("TERM", "HUP")], ids="-".join)
def test_two_signals_of_systemd_at_once_keep_grace(order: tuple[str, str]) -> None:
    """SendSIGHUP=yes: HUP right behind TERM, of which Python may see either first."""
    with Graced("--grace", "1") as graced, graced.served() as client:
        for name in order:
            graced.signal(Signals[f"SIG{name}"])
        client.expect_farewell_alone()
        client.echo(b"still here")
        assert graced.wait() == 0
        assert graced.stopped.seconds >= 1
        assert graced.stopped[1:] == (0, 1)
        assert graced.log.count("SIG(HUP|TERM) received, closing in 1 s") == 1
        assert graced.log.count("SIG(HUP|TERM) received, already closing") == 1


def test_usr1_in_drain_logs_status() -> None:
    with Graced("--grace", "30") as graced, graced.served() as client:
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        graced.signal(Signals.SIGUSR1)
        graced.log.wait_for(r"^<6>draining: 1 client remaining, \d+ s to go$")
        client.close()
        assert graced.wait() == 0


def test_signal_during_start_is_not_lost() -> None:
    """It waits until the server can keep the contract, and stops it then."""
    before = (
        "import os, signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    with Graced(before=before) as graced:
        assert graced.wait() == 0
        assert graced.log.count("SIGTERM received, closing in 5 s, 0 clients remaining") == 1


def test_deadline_does_not_move_when_signals_keep_coming() -> None:
    with Graced("--grace", "2") as graced, graced.served() as client:
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        graced.log.wait_for("closing in 1 s")
        for _ in range(100):
            graced.signal(SIGTERM)
        assert graced.wait() == 0
        assert 2 <= graced.stopped.seconds < 2 + MOMENT


def test_late_clients_do_not_move_deadline(handler: str) -> None:
    """Late clients, one after the other, are no reason to stay beyond the deadline."""
    with Graced("--grace", "1", "--handler", handler) as graced, graced.served() as stays:
        graced.signal(SIGTERM)
        stays.expect_farewell_alone()
        try:
            while True:
                with Client.connect(graced.addresses[0]) as late:
                    late.send(b"hello")
                    late.recv()
        except (ConnectionError, OSError):
            assert graced.wait() == 0
        assert 1 <= graced.stopped.seconds < 1 + MOMENT
