"""The end of other people's code, after a graceful stop: hook, exit functions, files.

graced exits by _exit(2), because a thread that a handler has started could hold up the interpreter.
What Python does at its exit is done here instead, for a limited time: functions of `atexit`, and
files that were written to and not closed (`graced.app.open_files`).
"""

from __future__ import annotations

import atexit
from threading import Thread
from time import monotonic

from graced.app import open_files
from graced.log import events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT = 0.2
"""Seconds that this may take beyond the deadline: with the rest of the exit half a second."""


def run(call_shutdown: Callable[[], object], deadline: float | None) -> None:
    """Run the hook ``shutdown`` and functions of `atexit`, and complete files.

    Returns at the deadline of the server, a monotonic time, or `TIMEOUT` seconds from now.
    """
    timeout = max(TIMEOUT, (deadline or 0.0) - monotonic())
    thread = Thread(target=_run, args=(call_shutdown,), name="exit", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        # The limit of tasks is reached, and the main thread may not wait for other people's code.
        events.LIMITS(reason=f"the hook shutdown and exit functions are not called: {error}")
        return
    thread.join(timeout)
    if thread.is_alive():
        events.LIMITS(reason="the hook shutdown or exit functions have not ended in time")


def _run(call_shutdown: Callable[[], object]) -> None:
    call_shutdown()
    # Prints the exceptions of the functions, as at the exit of Python.
    atexit._run_exitfuncs()
    open_files.complete()
