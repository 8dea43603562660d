"""The new process of a reload, as the old one sees it: started, heard, killed.

The old process starts the installed program once more, as it was started itself, with one end of
the channel (`graced.reload.channel`) as descriptor `CHANNEL`.  The *command* that is started forks
a daemon, as ever; that daemon is the new process, a child of PID 1, and says HELLO with its pid.
Until then it cannot be killed by its pid, and ends by itself when the channel does.

The program learns from `VARIABLE` in its environment that it is a new process.  Name and format are
an interface between two versions of graced, as that of a preflight.
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress

from graced.app.child import Child, without_service_manager
from graced.reload.channel import Channel
from graced.reload.table import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from graced.app.launch import Launch
    from graced.reload.channel import Letter

VARIABLE = "GRACED_RELOAD"
CHANNEL = 3
"""The number of the descriptor in the new process."""


class NewProcess(Child):
    """The command and its daemon; killed at the end of the context.  Main thread only."""

    def __init__(self, launch: Launch) -> None:
        """Start the command.  Raises `OSError`."""
        self.channel, theirs = Channel.pair()
        self._daemon = -1
        self._said = ""
        environment = without_service_manager(launch.environment)
        environment[VARIABLE] = f"pid={os.getpid()} channel={CHANNEL}"
        try:
            super().__init__(
                [*launch.program, *launch.arguments],
                environment,
                launch.directory,
                name="the new process",
                gets=(theirs.fileno(), CHANNEL),
            )
        except BaseException:
            self.channel.close()
            raise
        finally:
            # Or its end would never be seen here.
            theirs.close()

    def __enter__(self) -> NewProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self.channel.close()
        super().__exit__(kind, error, traceback)
        if self._daemon >= 0:
            os.close(self._daemon)

    @property
    def watched(self) -> list[int]:
        """The descriptors that are readable when there is something to `look` at."""
        return [fd for fd in (self.channel.fileno(), self.fileno(), self._daemon) if fd >= 0]

    def look(self) -> tuple[list[Letter], bool]:
        """The letters since the last look; and whether the new process is gone, so none follows."""
        # Before the letters are read: then they are all that it has said.
        gone = self._daemon >= 0 and _is_readable(self._daemon)
        ended = not self.running
        letters = []
        while letter := self.channel.receive():
            self._note(letter)
            letters.append(letter)
        unknown = self._daemon < 0
        return letters, gone or (unknown and ended and self.channel.ended)

    def _note(self, letter: Letter) -> None:
        if letter.message is Message.HELLO:
            # Gone already: then the channel has ended, too.
            with suppress(OSError):
                self._daemon = os.pidfd_open(letter.number("pid"))
        elif letter.message is Message.FAILED:
            self._said = letter.data.decode("utf-8", "replace")

    def kill(self) -> None:
        """Kill the command and the new process; `look` says when it is gone."""
        with suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        if self._daemon >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._daemon, signal.SIGKILL)
        else:
            self.channel.end()

    @property
    def reason(self) -> str:
        """Why it is gone, in one line."""
        return self._said or super().reason or "the new process has ended without a word"


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
