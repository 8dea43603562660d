"""The registry: what is known of handlers; `graced.handlers.finder` finds a handler by its name.

The built-in ``echo`` runs on the I/O threads and has no code here, the hot loop *is* the echo.  A
subclass of `graced.StreamProtocol` is called by the I/O threads (`graced.loop.streams`).  An
`asyncio.Protocol` class and a coroutine function run on an asyncio loop (`graced.aio`).  Every
other handler is a `socketserver.BaseRequestHandler` class, whose ``handle`` blocks and gets a
thread for each client.  The class may have four attributes:

``farewell``
    `bytes` or `str` to be sent instead of the configured farewell; or a method that returns them
    for its client, or None where it has said goodbye itself.  None: no farewell is sent.  Where
    nothing is sent, the handler hears end of file and says goodbye in its own words;
    ``self.server.draining`` (a `threading.Event`) is set then, and ``self.server.deadline``
    (monotonic seconds) is known.
``server``
    an object whose attributes ``self.server`` has, for a handler that was written for a server of
    its own: ``logRequests`` of xmlrpc, ``base_environ`` of wsgiref.
``options``
    what the handler reads of the section ``[handler]``: a `dict` of names and `graced.Option`.  The
    class method ``configure`` gets the values.
``greets``
    True where the server speaks first: the handler starts when its client is accepted, not when the
    first byte of the client has come.  Where the class does not say, a silent client may show it
    (`graced.handlers.greeting`).  A stream handler always starts at the accept.

Clients of a handler with the following two methods stay connected at a restart.
The clients of other handlers receive the farewell at a restart, and have the grace period:

``save()``
    returns the state of the handler as `bytes`.  ``save`` is called after an exception has ended
    ``handle`` at a read: `BlockingIOError` at a read that is waiting, `FreezeInterrupt`, a
    `BaseException`, at a new read.  ``handle`` must let the exception pass, so beware of ``except
    OSError``.  What the ``rfile`` of a `socketserver.StreamRequestHandler` has read ahead is saved
    too.
``restore(state)``
    takes that state in the next process, after ``setup`` and before ``handle``; or after
    ``connection_made``.
"""

from __future__ import annotations

from types import MappingProxyType, SimpleNamespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

ECHO = "echo"


class Handler(SimpleNamespace):
    """A handler, with the attributes of its class."""

    name: str
    """The names of module and class: a saved state is for the handler with the same identity."""
    factory: Any
    """The class, or a subclass; or a coroutine function."""
    asynchronous: str = ""
    """How it runs on an asyncio loop, see `graced.handlers.asynchronous`; empty: it does not."""
    make: Any = None
    """Of a handler on an asyncio loop: the class, function or `functools.partial` to be called."""
    streams: bool
    """Whether this is a stream handler, and not a blocking one."""
    holds_back: bool
    """Of a stream handler: whether it leaves `pause_writing` to graced."""
    words: Callable[[Any], bytes | None] | None
    """Calls the method `farewell` of a stream handler or protocol; None: there is no method."""
    farewell: bytes | None
    """The declared farewell; None: there is none, or the handler has a method for it."""
    greets: bool | None
    """Whether it speaks first; None: its class does not say."""
    movable: bool
    """Whether the handler can save its state and go on in another process."""
    options: Mapping[str, Any] = MappingProxyType({})
    """The values of its options, once `graced.handlers.configuring` has checked them."""


BUILT_IN = {"echo-threaded": "graced.handlers.echo:EchoHandler"}
"""Handlers of graced that are found as others are."""


def is_built_in(name: str) -> bool:
    """Whether `name` is a handler of graced."""
    return name == ECHO or name in BUILT_IN


def name_of(handler: Handler | None) -> str:
    """The name of a handler; None: of the built-in echo."""
    return handler.name if handler else ECHO


def blocks(handler: Handler | None) -> bool:
    """Whether the handler needs a thread for each client; None: the built-in echo does not."""
    return handler is not None and not handler.streams and not handler.asynchronous
