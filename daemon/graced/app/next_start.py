"""The question before a handover: would the next start serve?"""

from __future__ import annotations

from time import monotonic

from graced.app import child
from graced.app.preflight import Preflight
from graced.log import events
from graced.signals import HANDOVER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import Signals

    from graced.app.claims import Claims
    from graced.app.launch import Launch
    from graced.process.supervisor import Supervisor
    from graced.systemd.notify import Notifier

_LOOK_AGAIN = 0.05
"""Seconds between two looks at a preflight without a pidfd."""
_EXTRA_TIME = 10.0
"""Seconds that the service manager is asked to wait beyond the time of a preflight."""


def try_next_start(
    launch: Launch, supervisor: Supervisor, notifier: Notifier, claims: Claims
) -> tuple[Signals, bool]:
    """The signal to drain for, and whether the next start would take over the clients.

    Clients are served meanwhile, and busy handlers come to rest.  A signal to stop for good wins.
    Main thread only.
    """
    signum, reason = _preflight(launch, supervisor, notifier, claims)
    if reason:
        events.HANDOVER_IMPOSSIBLE(reason=reason)
    elif not signum:
        signum = supervisor.settle()
    return signum or HANDOVER, not (signum or reason)


def _preflight(
    launch: Launch, supervisor: Supervisor, notifier: Notifier, claims: Claims
) -> tuple[Signals | None, str]:
    """The signal to stop for good, if one came; and the reason to refuse the next start."""
    passed = any(each.passed for each in claims.listeners)
    goes_on = claims.next_start_goes_on()
    _ask_for_time(notifier)
    try:
        with Preflight(launch, gets_listeners=passed, goes_on=goes_on) as attempt:
            begun = monotonic()
            deadline = begun + child.TIMEOUT
            while attempt.running:
                if monotonic() >= deadline:
                    if not attempt.advances():
                        break
                    deadline = monotonic() + child.TIMEOUT
                    _ask_for_time(notifier)
                again = monotonic() + _LOOK_AGAIN if attempt.fileno() < 0 else deadline
                signum = supervisor.serve_until(attempt.fileno(), min(again, deadline))
                if signum:
                    return signum, ""
            late = f"its check has not ended after {monotonic() - begun:.0f} s"
            return None, late if attempt.running else attempt.reason
    except OSError as error:
        return None, f"its check cannot be started: {error.strerror or error}"


def _ask_for_time(notifier: Notifier) -> None:
    # The time in which the service manager kills a service that stops is running already.
    notifier.status("checking whether the next start would serve", child.TIMEOUT + _EXTRA_TIME)
