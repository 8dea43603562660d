"""The new process of a reload, as the old one sees it: started, heard, killed.

The old process starts the installed program once more, as it was started itself, with one end of
the channel (`graced.reload.channel`) as descriptor `CHANNEL`.  The *command* that is started forks
a daemon, as ever; that daemon is the new process, a child of PID 1, and says HELLO with its pid.
Until then it cannot be killed by its pid, and ends by itself when the channel does.

The program learns from `RELOAD` in its environment that it is a new process, which may not speak
to the service manager yet.  So the variables that it will need for that have other names, which
begin with `HELD`: a version that knows nothing of them does not speak either.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from graced.app.child import Child, without_service_manager
from graced.app.launch import RELOAD
from graced.reload.channel import Channel
from graced.reload.table import Message
from graced.reload.watch import is_ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from graced.app.launch import Launch
    from graced.reload.channel import Letter

HELD = "GRACED_HELD_"
HELD_BACK = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "JOURNAL_STREAM")
CHANNEL = 3
"""The number of the descriptor in the new process."""


class NewProcess(Child):
    """The command and its daemon; killed at the end of the context.  Main thread only."""

    def __init__(self, launch: Launch) -> None:
        """Start the command.  Raises `OSError`."""
        self.channel, theirs = Channel.pair()
        self._daemon = -1
        self._daemon_pid = 0
        self._said = ""
        self.was_left = False
        """Whether `leave` was called."""
        self._has_command = True
        self._is_gone = False
        environment = without_service_manager(launch.environment)
        environment |= {
            f"{HELD}{name}": launch.environment[name]
            for name in HELD_BACK
            if name in launch.environment
        }
        environment[RELOAD] = f"pid={os.getpid()} channel={CHANNEL}"
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
        if not self.was_left:
            self.kill()
            super().__exit__(kind, error, traceback)
        self.channel.close()
        if self._daemon >= 0:
            os.close(self._daemon)

    @property
    def pid(self) -> int:
        """Of the new process, once it has said HELLO."""
        return self._daemon_pid

    @property
    def watched(self) -> list[int]:
        """The descriptors that are readable when there is something to `look` at."""
        found = []
        if not self.channel.ended:
            found.append(self.channel.fileno())
        if self._has_command:
            found.append(self.fileno())
        if not self._is_gone:
            found.append(self._daemon)
        return [fd for fd in found if fd >= 0]

    def leave(self) -> None:
        """Reap the command: the new process will not be killed any more, it has clients."""
        with suppress(ProcessLookupError):
            # It has nothing to do any more, and is about to end by itself.
            os.kill(self._pid, signal.SIGKILL)
        self._reap()
        self.was_left = True
        self._has_command = False

    @property
    def is_reaped(self) -> bool:
        """Whether the service manager knows that the new process is gone."""
        try:
            signal.pidfd_send_signal(self._daemon, 0)
        except ProcessLookupError:
            return True
        return False

    def look(self) -> tuple[list[Letter], bool]:
        """The letters since the last look; and whether the new process is gone, so none follows."""
        # Before the letters are read: then they are all that it has said.
        self._is_gone = self._daemon >= 0 and is_ready(self._daemon)
        ended = self.was_left or not self.running
        self._has_command = not ended
        letters = []
        while letter := self.channel.receive():
            self._note(letter)
            letters.append(letter)
        # The command ends after its daemon, and may say why that has failed.
        is_over = self._is_gone if self._daemon >= 0 else self.channel.ended
        return letters, ended and is_over

    def _note(self, letter: Letter) -> None:
        if letter.message is Message.HELLO:
            # Gone already: then the channel has ended, too.
            self._daemon_pid = letter.number("pid")
            with suppress(OSError):
                self._daemon = os.pidfd_open(self._daemon_pid)
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
        if self.was_left:
            return f"the new process with pid {self.pid} is gone"
        return self._said or super().reason or "the new process has ended without a word"
