"""What can go wrong in the rig, and when it counts as gone wrong."""

import subprocess

# Seconds that an event on a loaded two-core machine may take before the rig gives up on it.
PATIENCE = 30.0


class RigError(Exception):
    """The rig or the machine did not do its part; the message says what and shows the evidence."""


class CommandError(RigError):
    """A command on a device failed. ``result`` holds its exit status and output."""

    def __init__(self, argv: tuple[str, ...], result: subprocess.CompletedProcess[str]) -> None:
        self.result = result
        command = " ".join(argv)
        if len(command) > _SHOWN:
            command = command[:_SHOWN] + "…"
        lines = (result.stdout + result.stderr).splitlines()
        if len(lines) > _LINES:
            lines = ["…", *lines[-_LINES:]]
        output = "\n".join(lines)
        super().__init__(f"exit status {result.returncode} from: {command}\n{output}")


# What a message shows, so that it is not buried under a snippet for python3 -c or a build log.
_SHOWN = 200
_LINES = 80
