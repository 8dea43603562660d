"""Handlers with threads of their own, as a server asks for them."""

from __future__ import annotations

from graced.handlers.pool import HandlerPool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.handlers.greeting import Greeting
    from graced.handlers.pool import Run


class Blocking:
    """Handlers in threads of their own: the function that runs a handler, and their options.

    With a pool of `graced.aio` all handlers are in one.
    """

    __slots__ = ("greet", "max_threads", "movable", "new_pool", "run")

    def __init__(
        self,
        run: Run,
        *,
        greet: bool | Greeting = False,
        movable: bool = False,
        max_threads: int = 256,
        new_pool: Callable[..., Any] = HandlerPool,
    ) -> None:
        self.run = run
        self.greet = greet
        """Whether a handler speaks first, and so starts before the first byte of the client."""
        self.movable = movable
        """Whether a handler can save its state and go on in another process."""
        self.max_threads = max_threads
        """Handlers that run at once; further clients wait."""
        self.new_pool = new_pool
        """Creates the pool, from the arguments of `HandlerPool`."""
