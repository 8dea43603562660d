"""graced(8): the command line becomes settings, the outcome an exit status."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from graced import __version__, events, handlers, journal, service, settings
from graced.errors import FailedError, GracedError, UsageError


class _Help(argparse.HelpFormatter):
    """With a width: asking for that of the terminal would import shutil and its compressors,
    a megabyte, at every start."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=98)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see --help)")


def _number(text: str) -> float:
    value = float(text)
    return int(value) if value.is_integer() else value


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="graced",
        description="An echo server (RFC 862) that says goodbye properly.",
        epilog="Signals: TERM, HUP, INT and QUIT stop it gracefully, USR1 logs its status.",
        allow_abbrev=False,
        formatter_class=_Help,
    )
    parser.add_argument("-c", "--config", metavar="FILE", help=f"default: {settings.CONFIG_FILE}")
    parser.add_argument(
        "-l",
        "--listen",
        metavar="ADDRESS",
        action="append",
        help="HOST:PORT, [::1]:PORT, *:PORT or unix:/PATH; repeatable; port 0 picks one",
    )
    parser.add_argument(
        "-g",
        "--grace",
        metavar="SECONDS",
        type=_number,
        help="time that clients have to leave, from the first signal on",
    )
    parser.add_argument(
        "-d",
        "--daemon",
        action="store_true",
        help="return when the daemon serves in the background",
    )
    parser.add_argument(
        "-p",
        "--pid-file",
        metavar="PATH",
        help=f"default: {settings.PID_FILE} with --daemon, else none",
    )
    parser.add_argument(
        "-H",
        "--handler",
        metavar="NAME",
        help=f"{handlers.ECHO}, echo-threaded, an entry point or package.module:Class",
    )
    parser.add_argument(
        "-t", "--check-config", action="store_true", help="check the configuration and exit"
    )
    parser.add_argument("--log-level", metavar="LEVEL", help=", ".join(settings.LOG_LEVELS))
    parser.add_argument(
        "-v",
        dest="log_level",
        action="store_const",
        const="debug",
        help="the same as --log-level debug: what clients send is logged, too",
    )
    parser.add_argument("--version", action="version", version=f"graced {__version__}")
    return parser


_KEYS = {
    "--listen": "server.listen",
    "--handler": "server.handler",
    "--grace": "shutdown.grace_period",
    "--log-level": "log.level",
    "--pid-file": "daemon.pid_file",
}


def _options(arguments: argparse.Namespace) -> dict[str, tuple[str, Any]]:
    given = {
        key: (option, getattr(arguments, option.removeprefix("--").replace("-", "_")))
        for option, key in _KEYS.items()
    }
    return {key: (option, value) for key, (option, value) in given.items() if value is not None}


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    values = settings.load(arguments.config, _options(arguments))
    if arguments.check_config:
        handlers.find(values.handler, values.farewell)
        print(f"graced: configuration is valid, would serve {', '.join(map(str, values.listen))}")
        return 0
    pid_file = values.pid_file if arguments.daemon else arguments.pid_file
    service.run(values, pid_file=pid_file, daemon=arguments.daemon)
    return 0


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run graced(8) and exit."""
    journal.open_standard_streams()
    try:
        status = _run(argv)
    except FailedError as error:
        status = error.status
    except GracedError as error:
        _explain(error)
        status = error.status
    except Exception as error:
        _explain(GracedError(f"failed: {error!r}"))
        status = 1
    except SystemExit as leave:
        # Of argparse, for --help and --version.
        status = leave.code if isinstance(leave.code, int) else 1
    _leave(status)


def _explain(error: GracedError) -> None:
    """One line: on the terminal of who typed the command, or in the journal of the service."""
    if journal.stderr_is_journal():
        log = journal.open_log("info", journal.sink_for(detached=False))
        events.NOT_STARTED(reason=error, status=error.status)
        log.stop()
    else:
        line = str(error).translate({**journal.CONTROL, ord("\n"): "\\n"})
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
