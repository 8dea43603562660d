"""The way in which this process was started."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

from graced.process import limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

RELOAD = "GRACED_RELOAD"
"""The variable by which a process learns that it is the new one of a reload.

Its name and format are an interface between two versions of graced: `graced.app.new_process`."""
_AS_MODULE = ["-m", "graced"]


class Launch(SimpleNamespace):
    """The way in which this process was started, and the next process will be."""

    program: list[str]
    """The interpreter, with the program to run."""
    arguments: list[str]
    environment: dict[str, str]
    directory: str
    descriptors: int
    """The hard limit of descriptors, which python-daemon lowers."""

    @classmethod
    def of_this_process(cls, arguments: Sequence[str]) -> Launch:
        """To be called before anything changes the process."""
        given = list(arguments)
        before = len(sys.orig_argv) - len(given)
        is_command = before > 1 and sys.orig_argv[before:] == given
        return cls(
            program=[sys.executable, *(sys.orig_argv[1:before] if is_command else _AS_MODULE)],
            arguments=given,
            environment=dict(os.environ),
            directory=working_directory(),
            descriptors=limits.hard_descriptors(),
        )


def working_directory() -> str:
    """The working directory; the root where it has been removed."""
    try:
        return os.getcwd()
    except OSError:
        return "/"
