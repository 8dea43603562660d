"""What the tests share: a running graced, clients of it, a service manager, and leak checks.

Nothing here sleeps or polls: whatever is waited for is waited for on a condition, with `PATIENCE`
as the limit that only a failing test reaches.
"""

from support.activity import Activity, settled
from support.attempts import attempts
from support.client import FAREWELL, Client
from support.leaks import Leaks, own_orphans
from support.log import MACHINE, MOMENT, PATIENCE, Log
from support.notify import NotifySocket, fill_queue
from support.ports import reserved_port
from support.process import (
    CHECKOUT,
    COMMAND,
    Daemon,
    Graced,
    Stopped,
    environment,
    launch,
    run_graced,
    status_field,
    wait_for_end,
    without_a_log,
)
from support.store import PASS, FdStore

__all__ = [
    "CHECKOUT",
    "COMMAND",
    "FAREWELL",
    "MACHINE",
    "MOMENT",
    "PASS",
    "PATIENCE",
    "Activity",
    "Client",
    "Daemon",
    "FdStore",
    "Graced",
    "Leaks",
    "Log",
    "NotifySocket",
    "Stopped",
    "attempts",
    "environment",
    "fill_queue",
    "launch",
    "own_orphans",
    "reserved_port",
    "run_graced",
    "settled",
    "status_field",
    "wait_for_end",
    "without_a_log",
]
