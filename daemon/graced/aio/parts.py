"""asyncio handlers as a server asks for them."""

from __future__ import annotations

from functools import partial

from graced.aio.event_loop import new_loop
from graced.aio.pool import LoopPool
from graced.handlers.blocking import Blocking

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.handlers.registry import Handler


def asynchronous(
    handler: Handler, deadline: Callable[[], float | None], *, fast: bool = False
) -> Blocking:
    """One loop for all handlers.

    `deadline` returns the monotonic time of the deadline in the drain.  `fast`: on uvloop's loop.
    """
    make_loop = partial(new_loop, fast=fast)
    new_pool = partial(LoopPool, handler=handler, make_loop=make_loop, deadline=deadline)
    return Blocking(_never, greet=True, movable=handler.movable, new_pool=new_pool)


def _never(_request: object, _address: object) -> None:
    """The loop runs the handlers; a `Blocking` has a function for it all the same."""
