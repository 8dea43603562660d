"""A stranger's server as graced serves it: as a handler of the daemon, or as a program."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from strangers import gate
from support import PASS, FdStore, Graced
from support.process import LEFT_TO_THE_KERNEL

KINDS = ("daemon", "program")
GRACE, SHORT_GRACE = 20.0, 0.5
"""Seconds: more than any test takes, and a time in which nothing finishes that is held up."""


class Program(Graced):
    """A program with `GracefulTCPServer`."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(**options)
        self.command = [sys.executable, "-m", "strangers.program", name]


def server(name: str, kind: str, directory: Path, grace: float, **options: Any) -> Graced:
    """The stranger `name`, with files in `directory` and a grace period of `grace` seconds."""
    env = {
        gate.VARIABLE: str(directory / "gate"),
        "STRANGERS_GRACE": str(grace),
        "STRANGERS_SITE": str(directory),
        **options.pop("env", {}),
    }
    if kind == "program":
        return Program(name, env=env, **options)
    handler = f"strangers.glue.{name}:Handler"
    return Graced("--handler", handler, "-g", str(grace), env=env, **options)


def start(name: str, store: FdStore, directory: Path, **options: Any) -> Graced:
    """The daemon, as a service manager starts it that has a store of descriptors."""
    env = {**store.environment, **LEFT_TO_THE_KERNEL}
    passed = {"before": PASS, "pass_fds": store.descriptors}
    return server(name, "daemon", directory, GRACE, env=env, **passed, **options)
