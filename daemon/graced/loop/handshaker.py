"""The thread that computes handshakes of TLS.

A handshake takes a processor a millisecond, or twenty of a small device, in which OpenSSL has no
need of the GIL: the I/O threads serve meanwhile.  One step is made at a time, for one client after
the other.
"""

from __future__ import annotations

from queue import SimpleQueue
from threading import Thread

from graced.log import events
from graced.sockets.tls import doubt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket
    from ssl import SSLContext

    from graced.sockets.tls import TlsSocket

    Step = tuple[TlsSocket, Callable[[int | Exception], None]]
    """A connection, and what is called with the result."""


class Handshaker(Thread):
    """The thread that computes the handshakes of all I/O threads.

    The main thread constructs and starts it; it ends with the process, or by `finish`.
    """

    def __init__(self, context: SSLContext, certificate: str) -> None:
        """`certificate`: the file, of which the log says what clients may object to."""
        super().__init__(name="tls", daemon=True)
        self._context = context
        self._certificate = certificate
        self._steps: SimpleQueue[Step | None] = SimpleQueue()

    def secure(self, sock: socket) -> TlsSocket:
        """The connection in TLS, before its handshake.  Any thread may call."""
        secured: TlsSocket = self._context.wrap_socket(  # type: ignore[assignment]
            sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        return secured

    def step(self, sock: TlsSocket, done: Callable[[int | Exception], None]) -> None:
        """Make the next step of a handshake, and call `done` with its result in this thread.

        Any thread may call.
        """
        self._steps.put((sock, done))

    def run(self) -> None:
        """Make the steps, in the order of their coming."""
        if reason := doubt(self._context, self._certificate):
            events.CERTIFICATE(path=self._certificate, reason=reason)
        while step := self._steps.get():
            sock, done = step
            done(sock.step())

    def finish(self) -> None:
        """End the thread, after the steps that are due.  Any thread may call."""
        self._steps.put(None)
