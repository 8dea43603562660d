"""The control socket of a service: where it is, and what it is asked about."""

from __future__ import annotations

import os
from errno import EEXIST
from time import monotonic

from graced.handlers import registry
from graced.log import events, sinks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import ExitStack

    from graced.app.settings import Settings
    from graced.control.endpoint import Endpoint
    from graced.control.subject import Reload
    from graced.handlers.registry import Handler
    from graced.log.writer import Log
    from graced.process.supervisor import Supervisor
    from graced.process.tallies import Tallies
    from graced.server import Server
    from graced.sockets.listener import Listener

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


class ControlSocket:
    """The control socket of a service, where it can have one.  Main thread only."""

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        """The arguments are those of `path_in`."""
        self._path = path_in(environ, pid)
        self._endpoint: Endpoint | None = None

    def bind(
        self, settings: Settings, listeners: Sequence[Listener], belongings: ExitStack
    ) -> None:
        """Bind the socket, which `belongings` closes; one record in the log where that fails."""
        if not self._path:
            return
        from graced.control.endpoint import Endpoint  # noqa: PLC0415

        addresses = {*(each.name for each in listeners), *map(str, settings.listen)}
        try:
            if f"unix:{self._path}" in addresses:
                # It would be replaced.
                raise FileExistsError(EEXIST, "it is an address for clients")
            self._endpoint = Endpoint(self._path)
        except OSError as error:
            events.CONTROL_ABSENT(path=self._path, reason=error.strerror or error)
        else:
            belongings.callback(self._endpoint.close)

    def serve(
        self,
        server: Server,
        supervisor: Supervisor,
        stop: Callable[[], None],
        log: Log,
        tallies: Tallies,
        settings: Settings,
        handler: Handler | None,
        inherited: tuple[int, int | None] | None,
        reload: Callable[[], Reload] | None,
    ) -> None:
        """Answer questions about a service that serves.

        `stop`, `inherited` and `reload`: see `graced.control.subject.Subject`.
        """
        if not self._endpoint:
            return
        from graced.control.subject import Subject  # noqa: PLC0415

        self._endpoint.serve(
            Subject(
                server=server,
                supervisor=supervisor,
                stop=stop,
                log=log,
                tallies=tallies,
                name=sinks.identifier(),
                handler=settings.handler,
                max_handler_threads=settings.max_handler_threads if registry.blocks(handler) else 0,
                grace_period=settings.grace_period,
                inherited=inherited,
                reload=reload,
                since=monotonic(),
            )
        )
        supervisor.attend(self._endpoint)

    def disown_path(self) -> None:
        """Leave the file to the next process."""
        if self._endpoint:
            self._endpoint.disown_path()

    def bind_again(self) -> None:
        """Take the file back, of a process that has died; one record in the log if that fails."""
        if self._endpoint:
            try:
                self._endpoint.bind_again()
            except OSError as error:
                events.CONTROL_ABSENT(path=self._path, reason=error.strerror or error)

    def __bool__(self) -> bool:
        """Whether there is a directory for it."""
        return bool(self._path)
