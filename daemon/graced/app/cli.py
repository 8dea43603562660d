"""graced(8): the command line becomes settings, the outcome an exit status."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from graced import __version__
from graced.app import options, service, settings
from graced.errors import FailedError, GracedError
from graced.handlers import registry
from graced.log import events, sinks, writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

    from graced.app.settings import Settings

_KEYS = {
    "--listen": "server.listen",
    "--handler": "server.handler",
    "--grace": "shutdown.grace_period",
    "--log-level": "log.level",
    "--pid-file": "daemon.pid_file",
}


def _run(argv: Sequence[str]) -> int:
    given = options.parse(argv)
    if "--help" in given:
        print(options.help_text())
    elif "--version" in given:
        print(f"graced {__version__}")
    else:
        return _serve_or_check(given)
    return 0


def _serve_or_check(given: dict[str, Any]) -> int:
    overrides = {key: (name, given[name]) for name, key in _KEYS.items() if name in given}

    def load(*, lenient: bool = False) -> Settings:
        return settings.load(given.get("--config"), overrides, lenient=lenient)

    def check(*, lenient: bool = True) -> Settings:
        values = load(lenient=lenient)
        registry.find(values.handler, values.farewell)
        return values

    if "--check-config" in given:
        values = check(lenient=False)
        print(f"graced: configuration is valid, would serve {', '.join(map(str, values.listen))}")
        return 0
    values = load()
    daemon = "--daemon" in given
    pid_file = values.pid_file if daemon else given.get("--pid-file")
    return service.run(values, pid_file=pid_file, daemon=daemon, check=check)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run graced(8) and exit."""
    sinks.open_standard_streams()
    try:
        status = _run(sys.argv[1:] if argv is None else argv)
    except FailedError as error:
        status = error.status
    except GracedError as error:
        _explain(error)
        status = error.status
    except Exception as error:
        _explain(GracedError(f"failed: {error!r}"))
        status = 1
    _leave(status)


def _explain(error: GracedError) -> None:
    """One line: on the terminal of who typed the command, or in the journal of the service."""
    if sinks.stderr_is_journal():
        log = writer.open_log("info", sinks.sink_for(detached=False))
        events.NOT_STARTED(reason=error, status=error.status)
        log.stop()
    else:
        line = str(error).translate({**sinks.CONTROL, ord("\n"): "\\n"})
        with suppress(OSError):
            print(f"graced: {line}", file=sys.stderr, flush=True)


def _leave(status: int) -> NoReturn:
    """Exit at once: a thread that somebody's handler left behind could hold up the interpreter."""
    for stream in (sys.stdout, sys.stderr):
        try:
            # There is none where the caller has closed the descriptor.
            if stream:
                stream.flush()
        except OSError:
            status = status or 1
    os._exit(status)
