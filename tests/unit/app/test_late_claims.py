"""What is said and given up of claims that are missing; functional/ has the rest."""

from __future__ import annotations

import socket
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from graced.app import late_claims
from graced.app.late_claims import Claim, LateClaims
from graced.errors import ListenError, UnresolvedError
from graced.process.pidfile import PidFile
from graced.sockets.address import Address
from graced.sockets.listener import Listener
from support import PATIENCE

ADDRESS = Address.parse("late.test:9")
TAKEN, DENIED = ListenError("address in use"), ListenError("permission denied")


class Tries:
    """The tries of a claim, which end as the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._begun: SimpleQueue[None] = SimpleQueue()
        self._outcomes: SimpleQueue[Any] = SimpleQueue()
        monkeypatch.setattr(late_claims, "FIRST_PAUSE", 0)

    def __call__(self) -> Any:
        self._begun.put(None)
        outcome = self._outcomes.get(timeout=PATIENCE)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def end(self, outcome: Any) -> None:
        """Let a try end; return when the next one has begun, if any comes."""
        self._outcomes.put(outcome)
        if isinstance(outcome, Exception):
            self._begun.get(timeout=PATIENCE)

    def wait(self) -> None:
        """Return when a try has begun."""
        self._begun.get(timeout=PATIENCE)


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> Tries:
    return Tries(monkeypatch)


def start(claims: LateClaims) -> SimpleQueue[None]:
    woken: SimpleQueue[None] = SimpleQueue()
    claims.prepare()
    claims.start(lambda: woken.put(None))
    return woken


def end(claims: LateClaims) -> None:
    claims._thread.join(PATIENCE)
    assert not claims._thread.is_alive()


def test_each_reason_is_said_once(tries: Tries, caplog: pytest.LogCaptureFixture) -> None:
    claims = LateClaims()
    claims.add(Claim(ADDRESS, TAKEN, tries))
    assert claims.look() == []
    woken = start(claims)
    tries.wait()
    for error in (TAKEN, DENIED, UnresolvedError("unknown"), DENIED, TAKEN, DENIED):
        tries.end(error)
        assert claims.look() == []
    assert claims.missing == "permission denied, trying again"
    texts = [record.getMessage().partition(";")[0] for record in caplog.records]
    assert texts == ["address in use", "permission denied"]
    while not woken.empty():
        woken.get()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        tries.end([Listener(sock)])
        woken.get(timeout=PATIENCE)
        assert [[each.sock for each in got] for got in claims.look()] == [[sock]]  # type: ignore[union-attr]
    assert claims.missing == ""
    end(claims)


def test_name_that_is_resolved_and_taken_is_said(
    tries: Tries, caplog: pytest.LogCaptureFixture
) -> None:
    claims = LateClaims()
    claims.add(Claim(ADDRESS, None, tries))
    start(claims)
    tries.wait()
    tries.end(UnresolvedError("unknown"))
    assert claims.missing == "waiting for late.test:9"
    tries.end(TAKEN)
    assert claims.look() == []
    assert claims.missing == "address in use, trying again"
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "late.test:9 cannot be resolved at present, trying again while the service runs",
        "address in use",
    ]
    claims.stop()
    tries.end([])
    end(claims)


@pytest.mark.parametrize("answers", [True, False])
def test_name_that_the_start_has_not_asked_for_is_asked_before_a_word(
    tries: Tries, caplog: pytest.LogCaptureFixture, answers: bool
) -> None:
    """A restart uses the listeners that it inherits, whatever the name server says."""
    claims = LateClaims()
    claims.add(Claim(ADDRESS, None, tries, asked=False))
    start(claims)
    tries.wait()
    assert caplog.records == []
    if not answers:
        for _ in range(2):
            tries.end(UnresolvedError("unknown"))
    tries.end([])
    end(claims)
    assert len(caplog.records) == (not answers)


def test_claim_that_needs_no_try_needs_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    claims = LateClaims()
    claims.add(Claim(error=DENIED))
    start(claims)
    end(claims)
    assert claims.missing == "permission denied"


@pytest.mark.parametrize("when", ["before the stop", "after the stop"])
def test_stop_gives_up_what_nobody_has_taken(tries: Tries, tmp_path: Path, when: str) -> None:
    lock = PidFile(str(tmp_path / "pid"))
    with socket.create_server(("127.0.0.1", 0)) as sock:
        for got in ([Listener(sock)], lock):
            claims = LateClaims()
            claims.add(Claim(error=TAKEN, attempt=tries))
            woken = start(claims)
            tries.wait()
            if when == "after the stop":
                claims.stop()
            tries.end(got)
            if when == "before the stop":
                woken.get(timeout=PATIENCE)
                claims.stop()
            end(claims)
        assert sock.fileno() == -1
    assert not (tmp_path / "pid").exists()


def test_start_that_fails_after_prepare_leaves_no_thread(tries: Tries) -> None:
    claims = LateClaims()
    claims.add(Claim(ADDRESS, TAKEN, tries))
    claims.prepare()
    claims.stop()
    end(claims)
