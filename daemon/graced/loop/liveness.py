"""Signs of life of the threads that must not wait: I/O threads, the loop of asyncio handlers."""

from __future__ import annotations

from graced.frames import current_frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from graced.loop.interfaces import Watched


class Liveness:
    """Asks threads for signs of life.  Main thread only."""

    def __init__(
        self, threads: Sequence[Watched], calling: Sequence[Watched], handler: str
    ) -> None:
        """`calling`: the threads that call the handler with the name `handler`."""
        self.handler = handler
        self._threads = threads
        self._calling = calling
        self._number = 0

    def probe(self) -> None:
        """Ask every thread for a sign of life."""
        self._number += 1
        for thread in self._threads:
            thread.probe(self._number)

    @property
    def late(self) -> str:
        """A thread that has not answered the last probe, in the words of the log; empty: none."""
        late = (each.title for each in self._threads if each.answered != self._number)
        return next(late, "")

    def blocked_at(self) -> str:
        """Where the handler holds up a thread that calls it; empty: nowhere."""
        for thread in self._calling:
            frame = current_frames().get(thread.ident or 0)
            if frame and thread.answered != self._number:
                return f"{frame.f_code.co_qualname}, {frame.f_code.co_filename}:{frame.f_lineno}"
        return ""
