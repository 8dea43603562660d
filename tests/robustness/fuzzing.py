"""Random inputs: how many a test tries, and what every run of the program has to show."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from robustness.forge import Outcome
from robustness.scale import scaled

OK, FAILED, USAGE, LISTEN, PIDFILE, RUNNING, CONFIG = 0, 1, 2, 69, 73, 75, 78


much = settings(
    max_examples=scaled(300, 50_000),
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
some = settings(much, max_examples=scaled(150, 5_000))


def check(outcome: Outcome, *allowed: int) -> None:
    """The exit status is one of these; a failure is explained in exactly one line."""
    status, out, err = outcome
    assert status in allowed, outcome
    assert "Traceback" not in out + err
    if status == OK:
        assert "graced: " not in err
    else:
        assert err.startswith("graced: "), outcome
        assert err.endswith("\n"), outcome
        assert len(err.splitlines()) == 1, outcome
        assert len(err) < 2000, outcome
        assert out == ""


def check_served(outcome: Outcome, *allowed: int) -> None:
    """The run served, with warnings at most; or was refused with exactly one line."""
    assert "Traceback" not in outcome.err
    if outcome.status == OK:
        assert "stopped after" in outcome.err
        assert all(line.startswith("<") for line in outcome.err.splitlines()), outcome
        return
    assert outcome.status in allowed, outcome
    lines = [line for line in outcome.err.splitlines() if not line.startswith(("<4>", "<6>"))]
    assert len(lines) == 1, outcome
