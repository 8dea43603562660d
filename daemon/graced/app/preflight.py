"""The next start, tried out before the clients are let go.

A restart that is refused would lose every client: this process is gone by then.  So the daemon
first runs the installed program once more, as a child: the same command with ``--check-config``
before its other arguments, and so the same user, sandbox, interpreter and handler path as at the
next start.  The child finds faults that an upgrade or an edit has brought: in the configuration,
the modules, the handler, the limits and the addresses (`graced.app.check`).  Clients are served
meanwhile.

The child learns from `VARIABLE` in its environment that it is a preflight.  Name and format are
an interface between two versions of graced: words of the form ``name=value``, of which the child
ignores unknown names.
"""

from __future__ import annotations

import os
from contextlib import suppress

from graced.app.child import Child, without_service_manager
from graced.process import limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from graced.app.check import Subject
    from graced.app.launch import Launch

VARIABLE = "GRACED_PREFLIGHT"
OPTION = "--check-config"


class Preflight(Child):
    """A running child, killed and reaped at the end of the context.  Main thread only."""

    def __init__(self, launch: Launch, *, gets_listeners: bool, goes_on: bool = False) -> None:
        """Start the child.  `gets_listeners`: the service manager passes listening sockets.

        `goes_on`: the next start goes on without an address or a pidfile that it cannot get.
        Raises `OSError`.
        """
        about = {
            "pid": os.getpid(),
            "descriptors": launch.descriptors,
            "gets_listeners": int(gets_listeners),
            "goes_on": int(goes_on),
        }
        environment = without_service_manager(launch.environment)
        environment[VARIABLE] = " ".join(f"{name}={value}" for name, value in about.items())
        command = [*launch.program, OPTION, *launch.arguments]
        super().__init__(command, environment, launch.directory, name="its check")


def subject(environ: Mapping[str, str]) -> Subject | None:
    """The child's side of `Preflight`: the subject; None if this process is no preflight."""
    words = dict(word.partition("=")[::2] for word in environ.get(VARIABLE, "").split())
    if words.get("pid") != str(os.getppid()):
        return None
    # Not for the daemon, which imports this module as well.
    from graced.app import occupancy  # noqa: PLC0415
    from graced.app.check import Subject  # noqa: PLC0415

    # If memory gets short the check has to go, and not the daemon with its clients.
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
    ours = occupancy.sockets_of(os.getppid())
    return Subject(
        ours=ours,
        managed=True,
        knows_service=ours is not None,
        descriptors=int(words.get("descriptors", limits.hard_descriptors())),
        gets_listeners="the service manager" if words.get("gets_listeners") == "1" else "",
        goes_on=words.get("goes_on") == "1",
    )
