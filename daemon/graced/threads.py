"""The start of a thread without which the program cannot serve.

Nothing else is here: I/O threads are in `graced.loop.io_thread`, threads of handlers in
`graced.handlers.pool`, the thread of the log in `graced.log.writer`.
"""

from __future__ import annotations

from graced.errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from threading import Thread


def start_thread(thread: Thread) -> None:
    """Start a thread.  Raises `StartError` where the system refuses a thread."""
    try:
        thread.start()
    except RuntimeError as error:
        raise StartError(f"cannot start a thread: {error}") from None
