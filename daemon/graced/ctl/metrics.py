"""``gracectl metrics``: numbers of a running service for a monitoring system."""

from __future__ import annotations

import argparse
import json
import os
from contextlib import suppress
from typing import Any

from graced.ctl import control
from graced.ctl.exposition import open_metrics, plain_text

MODE = 0o644
"""Another user reads the file: the node exporter."""


def add_command(commands: Any) -> None:
    """Add the command to the parser of gracectl(1)."""
    command = commands.add_parser(
        "metrics",
        help="print the counts of a running service, for Prometheus",
        description="Print the counts of a running service in the format OpenMetrics, or write"
        " them to a file that the node exporter of Prometheus reads.",
        epilog=control.STATUSES,
    )
    command.set_defaults(run=run)
    command.add_argument(
        "--textfile",
        metavar="PATH",
        help="write to this file, in the text format of Prometheus and in one step; where the"
        " service does not run, the file has graced_up 0 alone",
    )
    control.add_options(command)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit status.  Raises `ControlError`; `OSError` for output."""
    try:
        (reply,) = control.ask(arguments, "Metrics")
    except control.ControlError as error:
        if arguments.textfile and error.status == control.UNAVAILABLE:
            replace(arguments.textfile, plain_text([_down(arguments.instance.full_name)]))
        raise
    metrics = reply["metrics"]
    text = json.dumps(metrics) + "\n" if arguments.json else ""
    if arguments.textfile:
        replace(arguments.textfile, text or plain_text(metrics))
    else:
        print(text or open_metrics(metrics), end="")
    return 0


def _down(service: str) -> dict[str, Any]:
    sample = {"name": "graced_up", "labels": {"service": service}, "value": 0}
    return {
        "name": "graced_up",
        "type": "gauge",
        "help": "Whether the service answers.",
        "unit": "",
        "samples": [sample],
    }


def replace(path: str, text: str) -> None:
    """Write a file beside `path`, and rename it: a reader sees all of the text.  Raises `OSError`.

    The name of the file beside it does not end in ``.prom``, so that the node exporter ignores it.
    """
    beside = f"{path}.{os.getpid()}"
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            # Whatever the umask.
            os.fchmod(fd, MODE)
            file.write(text)
        os.rename(beside, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise
