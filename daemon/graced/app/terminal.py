"""The output of the command that has started a daemon."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from graced.log import sinks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from graced.process.pidfile import PidFile
    from graced.sockets.listener import Listener

_NO_LOG = "none (no journal, no syslog)"


def tell(listeners: Iterable[Listener], lock: PidFile | None, *, keep_stderr: bool) -> None:
    """Print on the terminal where to find the daemon and the log.

    Without a terminal say on stderr only that there is no log: the daemon itself cannot.
    `keep_stderr`: whether the daemon still has the stderr of this command.
    """
    # A terminal that was closed meanwhile has nobody to tell.
    with suppress(OSError):
        if not (sys.stdout and os.isatty(sys.stdout.fileno())):
            if sys.stderr and _place_of_log(keep_stderr) == _NO_LOG:
                print(f"graced: log: {_NO_LOG}; 2>FILE writes one", file=sys.stderr)
            return
        addresses = ", ".join(each.name for each in listeners) or "no address yet"
        pid = f" with pid {owner}" if lock and (owner := lock.owner()) else ""
        print(f"graced: serving on {addresses}{pid}, log: {_place_of_log(keep_stderr)}")


def _place_of_log(keep_stderr: bool) -> str:
    """Where to read the log of a daemon in the background."""
    if keep_stderr and not sinks.stderr_is_journal():
        try:
            return os.readlink("/proc/self/fd/2")
        except OSError:
            # /proc is not mounted.
            return "stderr"
    sink = sinks.sink_for(detached=True)
    if isinstance(sink, sinks.Journal):
        return f"journalctl -t {sinks.identifier()}"
    return "syslog" if isinstance(sink, sinks.Syslog) else _NO_LOG
