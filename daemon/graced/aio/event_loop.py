"""The event loop of asyncio handlers, in a thread of its own.

The loop is asyncio's or uvloop's, with one addition: the timed calls and the calls of an executor
that the code of a client makes are noted for the client, by the context in which it runs.  Nothing
is added to the way of a message.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import suppress
from contextvars import ContextVar, copy_context
from threading import Thread

from graced.errors import StartError
from graced.threads import start_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.aio.session import Session

SESSION: ContextVar[Session | None] = ContextVar("graced session", default=None)
"""The session of the client for which code runs; also in the tasks and timed calls that it makes.
"""


def new_loop(*, fast: bool) -> asyncio.AbstractEventLoop:
    """A loop that notes the work of clients; `fast`: uvloop's.  Raises `ImportError`, `OSError`."""
    if fast:
        import uvloop  # noqa: PLC0415

        class NotingUvloop(uvloop.Loop):
            # `call_at` calls it.
            def call_later(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
                return _note_timer(super().call_later(*args, **kwargs))

            def run_in_executor(  # type: ignore[override]
                self, *args: Any, **kwargs: Any
            ) -> Any:
                return _note_call(super().run_in_executor(*args, **kwargs))

        return NotingUvloop()
    return NotingLoop()


class NotingLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, which notes the work of clients."""

    # `call_later` calls it.
    def call_at(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Call a function at a time, and note that for the client of the caller."""
        return _note_timer(super().call_at(*args, **kwargs))

    def run_in_executor(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Call a function in a thread, and note that for the client of the caller."""
        return _note_call(super().run_in_executor(*args, **kwargs))


def _note_timer(handle: Any) -> Any:
    if session := SESSION.get():
        session.note_timer(handle)
    return handle


def _note_call(future: Any) -> Any:
    if session := SESSION.get():
        session.executing += 1
        future.add_done_callback(session.note_return)
    return future


def _handle_of(error: BaseException) -> Any:
    """The call of asyncio's loop that an exception has left; None on uvloop's, which hides it."""
    trace = error.__traceback__
    while trace and trace.tb_frame.f_code is not asyncio.Handle._run.__code__:
        trace = trace.tb_next
    return trace and trace.tb_frame.f_locals["self"]


class EventLoop(Thread):
    """A thread that runs a loop until `finish`."""

    title = "the event loop"
    """The thread, in the log."""

    def __init__(self, loop: asyncio.AbstractEventLoop, handler: str) -> None:
        """`handler`: its name, for a warning that it does not return."""
        super().__init__(name="asyncio", daemon=True)
        self.loop = loop
        self.handler = handler
        self.answered = 0
        """The number of the last `probe` that was answered."""
        self.changed: Callable[[], None] = lambda: None
        """Called when a probe is answered."""
        self._finished = False
        self._context = copy_context()
        """The context of what is called here for no client, or for all of them."""

    def begin(self) -> None:
        """Start the thread.  Raises `StartError`."""
        try:
            start_thread(self)
        except StartError:
            self.loop.close()
            raise

    def run(self) -> None:
        """Run the loop until `finish`."""
        asyncio.set_event_loop(self.loop)
        while not self._finished:
            try:
                self.loop.run_forever()
            except BaseException as error:
                # Of a callback that exits: the process ends by a signal, and other clients remain.
                message = "a callback has ended the event loop, which goes on"
                found = {"handle": handle} if (handle := _handle_of(error)) else {}
                context = {"message": message, "exception": error, **found}
                self.loop.call_exception_handler(context)
        self.loop.close()

    def post(self, action: Callable[[], object]) -> None:
        """Call `action` in the loop.  Any thread may call; nothing is called after the end."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(action, context=self._context)

    def call(self, function: Callable[[], Any], timeout: float | None = None) -> Any:
        """Call `function` in the loop and return its result.  Not for the thread of the loop.

        Raises `TimeoutError`: the function is not called any more then, or is being called.
        """
        result: Future[Any] = Future()

        def call() -> None:
            if result.set_running_or_notify_cancel():
                try:
                    result.set_result(function())
                except BaseException as error:
                    result.set_exception(error)

        self.post(call)
        try:
            return result.result(timeout)
        except TimeoutError:
            result.cancel()
            raise

    def probe(self, number: int) -> None:
        """Ask for a sign of life: `answered` becomes `number`."""

        def answer() -> None:
            self.answered = number
            self.changed()

        self.post(answer)

    def finish(self) -> None:
        """End the loop, and so the thread.  In the loop."""
        self._finished = True
        self.loop.stop()
