"""``gracectl reload``: a new process, new code and new configuration, under the clients."""

from __future__ import annotations

import argparse
import json
import os
import signal
from typing import Any

from graced.ctl import control
from graced.ctl.control import ControlError
from graced.log.event import plural

FAILED = 1
"""The exit status of a reload that has failed."""


def add_command(commands: Any) -> None:
    """Add the command to the parser of gracectl(1)."""
    command = commands.add_parser(
        "reload",
        help="reload a running service: its program and its configuration, under its clients",
        description="Start a new process beside the one that serves, and let the clients move to"
        " it when it has everything; if it cannot serve, say why, and nothing changes. systemctl"
        " reload does the same. For root and the user of the service.",
        epilog=control.STATUSES.replace("1 an answer", "1 the reload has failed, or an answer", 1),
    )
    command.set_defaults(run=run)
    control.add_options(command)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit status.  Raises `ControlError`; `OSError` for output."""
    # systemd cancels `systemctl reload` where the service is stopped meanwhile, and would take any
    # other status for a failure of the service.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    *_, found = control.ask(arguments, "Reload")
    if arguments.json:
        print(json.dumps(found))
        return FAILED if found["reason"] else 0
    if found["reason"]:
        raise ControlError(f"the reload has failed: {found['reason']}", FAILED)
    print(
        f"reloaded: {plural(found['moved'], 'client')} moved to the process with pid"
        f" {found['pid']}, {found['remaining']} remaining with the old one"
    )
    return 0
