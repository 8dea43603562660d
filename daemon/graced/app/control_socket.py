"""The control socket of a service: where it is, and what it is asked about."""

from __future__ import annotations

import os
from errno import EEXIST
from time import monotonic

from graced.control.endpoint import Endpoint
from graced.control.subject import Subject
from graced.handlers import registry
from graced.log import events, sinks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from graced.app.settings import Settings
    from graced.handlers.registry import Handler
    from graced.log.writer import Log
    from graced.process.supervisor import Supervisor
    from graced.server import Server

NAME = "control"
"""The name of the socket in the runtime directory."""


def path_in(environ: Mapping[str, str], pid: int) -> str:
    """The path of the control socket; empty: no service manager has given us a directory.

    `pid`: of the process that the service manager has started, if any has.
    """
    directory = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    # A terminal, or a service that starts us, passes on what was meant for itself.
    if not directory or environ.get("SYSTEMD_EXEC_PID", str(pid)) != str(pid):
        return ""
    return os.path.join(directory, NAME)


def bind(path: str, addresses: Iterable[str]) -> Endpoint | None:
    """Bind the control socket; None, with a record in the log, where that fails.

    `addresses`: those that clients are, or will be, accepted from.
    """
    try:
        if f"unix:{path}" in addresses:
            # It would be replaced.
            raise FileExistsError(EEXIST, "it is an address for clients")
        return Endpoint(path)
    except OSError as error:
        events.CONTROL_ABSENT(path=path, reason=error.strerror or error)
        return None


def serve(
    endpoint: Endpoint,
    server: Server,
    supervisor: Supervisor,
    stop: Callable[[], None],
    log: Log,
    settings: Settings,
    handler: Handler | None,
    inherited: tuple[int, int | None] | None,
) -> None:
    """Answer questions about a service that serves.  `stop`, `inherited`: see `Subject`."""
    endpoint.serve(
        Subject(
            server=server,
            supervisor=supervisor,
            stop=stop,
            log=log,
            name=sinks.identifier(),
            handler=settings.handler,
            max_handler_threads=settings.max_handler_threads if registry.blocks(handler) else 0,
            inherited=inherited,
            since=monotonic(),
        )
    )
    supervisor.attend(endpoint)
