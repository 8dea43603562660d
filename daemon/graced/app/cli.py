"""graced(8): the command line becomes settings, the outcome an exit status."""

from __future__ import annotations

import os
import sys

from graced.app import command_line, configuration, refusal, service
from graced.app.launch import RELOAD, Launch
from graced.errors import FailedError, GracedError, UsageError
from graced.log import events, sinks, writer
from graced.systemd import notify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from graced.app.command_line import Given
    from graced.app.settings import Settings


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run graced(8) and exit."""
    sinks.open_standard_streams()
    try:
        status = _run(sys.argv[1:] if argv is None else argv)
    except FailedError as error:
        notify.last_status(f"failed: {error}")
        status = error.status
    except GracedError as error:
        notify.last_status(f"cannot start: {error}")
        if not error.explained:
            _explain(error)
        status = error.status
    except SystemExit as done:
        # Of argparse, after --help and --version.
        status = int(done.code or 0)
    except Exception as error:
        _explain(GracedError(f"failed: {error!r}"))
        status = 1
    _leave(status)


def _run(argv: Sequence[str]) -> int:
    beside = None
    if RELOAD in os.environ:
        # Only the new process of a reload needs it.
        from graced.app import offer  # noqa: PLC0415
        from graced.app.reloaded import Reloaded  # noqa: PLC0415

        if invitation := offer.of_this_process(os.environ):
            beside = Reloaded(invitation)
    launch = Launch.of_this_process(argv)
    try:
        given = command_line.parse(argv)
    except GracedError:
        refusal.refuse(configuration.salvage(None, {}))
        raise
    sinks.identify(given.instance.full_name)
    if given.check_config:
        return _check(given)
    if given.print_config:
        values = configuration.read(given.config, given.overrides, given.instance)
        print(configuration.as_toml(values), end="")
        return 0
    if given.describe:
        # Only a description needs it.
        from graced.app import description  # noqa: PLC0415

        print(
            description.of(
                configuration.load(given.config, given.overrides, given.instance), os.environ
            )
        )
        return 0
    try:
        settings = configuration.load(given.config, given.overrides, given.instance)
    except GracedError:
        refusal.refuse(configuration.salvage(given.config, given.overrides, given.instance))
        raise
    pid_file = _pid_file(given, settings)
    if beside:
        if not given.daemon:
            raise UsageError("the new process of a reload has to be started with --daemon")
        launch.environment |= beside.held
    return service.run(
        settings, pid_file=pid_file, daemon=given.daemon, launch=launch, beside=beside
    )


def _pid_file(given: Given, settings: Settings) -> str | None:
    """The pidfile of a start; None: in the foreground there is none unless an option names it."""
    return settings.pid_file if given.daemon or "daemon.pid_file" in given.overrides else None


def _check(given: Given) -> int:
    # Only a check needs it: it takes as long as a third of a start.
    from graced.app import check, preflight  # noqa: PLC0415

    subject = preflight.subject(os.environ) or check.subject(given.instance)

    def load() -> Settings:
        return configuration.load(given.config, given.overrides, given.instance)

    def pid_file(settings: Settings) -> str | None:
        return settings.pid_file if subject.unit else _pid_file(given, settings)

    checking = check.Check(subject, os.environ)
    settings = checking.run(load, pid_file)
    where = subject.gets_listeners or ", ".join(map(str, settings.listen))
    who = f"{subject.unit.name} " if subject.unit else ""
    print(f"graced: configuration is valid, {who}would serve {where}")
    for doubt in checking.doubts:
        print(f"graced: warning: {doubt}")
    for note in checking.notes:
        print(f"graced: not checked: {note}")
    return 0


def _explain(error: GracedError) -> None:
    """Say why in one line: on the terminal of the command, or in the journal of the service.

    In the journal or syslog too where stderr is closed, or cannot be written (a full disk).
    """
    # Without `sys.stderr`, print would take stdout.
    if sys.stderr and not sinks.stderr_is_journal():
        line = str(error).translate({**sinks.CONTROL, ord("\n"): "\\n"})
        try:
            print(f"graced: {line}", file=sys.stderr, flush=True)
        except OSError:
            pass
        else:
            return
    log = writer.open_log("info", sinks.sink_for(detached=not sinks.stderr_is_journal()))
    events.NOT_STARTED(reason=error, status=error.status)
    log.stop()


def _leave(status: int) -> NoReturn:
    """Exit at once: a thread that a handler has started could hold up the interpreter."""
    for stream in (sys.stdout, sys.stderr):
        try:
            # There is none where the caller has closed the descriptor.
            if stream:
                stream.flush()
        except Exception as error:
            # Of another kind where a handler has closed it, or has put an object of its own there.
            status = status or int(isinstance(error, OSError))
    os._exit(status)
