"""Whether the handlers of a pool speak first, where their class does not say so.

Without ``greets`` a handler starts at the first byte of its client.  If the protocol begins with
words of the server, client and server would wait for each other, and nobody would know why.  So a
client that has been silent for a while gets its handler as an experiment (`graced.loop.silence`).
Either the handler reads first, which ends the matter; or it writes, although its client has said
nothing: then all handlers start at the accept from now on, and a warning says what is missing.
"""

from __future__ import annotations

from socket import MSG_DONTWAIT, MSG_PEEK, socket

from graced.handlers.handler_socket import HandlerSocket
from graced.log import events
from graced.loop.silence import SILENCE


class Greeting:
    """What is known of the handlers of one pool.  Any thread may call."""

    def __init__(self, known: bool | None, name: str = "") -> None:
        """`known`: what the class says; None: nothing.  `name`: of the handler, for the log."""
        self.known = known
        """Whether the handlers speak first; None: nobody knows yet."""
        self._name = name

    def watch(self, request: socket) -> None:
        """Learn from a handler that has not started yet, if its client is silent."""
        if self.known is None and isinstance(request, HandlerSocket) and _is_silent(request):
            request.try_out(self._learn)

    def give_up(self) -> None:
        """Try no more: a client without a handler can be handed over, whatever its handler does."""
        if self.known is None:
            self.known = False

    def _learn(self, greets: bool) -> None:
        if self.known is None:
            self.known = greets
            if greets:
                events.HANDLER_GREETS(handler=self._name, seconds=SILENCE)


def _is_silent(request: socket) -> bool:
    try:
        # Not by its own method: this is no read of the handler.
        socket.recv(request, 1, MSG_PEEK | MSG_DONTWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
