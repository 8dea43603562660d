"""Phases: what is true of an event source, and so what an I/O thread does about the source.

A phase is an index into the two tables of `graced.loop.io_thread.IOThread`: the first table says
what to do when a descriptor is ready, the second what to do when a point in time has come.  Phases
are plain integers because the hot loop compares a phase for every message.
"""

from __future__ import annotations

# The phases of a client.
ACTIVE = 0
"""The client is read and echoed.  Zero, so that the hot loop makes a single comparison."""
AWAITING_FIRST_BYTE = 1
"""The client has sent nothing yet; the first byte starts a handler for the client."""
TRACED = 2
"""The client is read and echoed, and every message is logged."""
WRITE_BLOCKED = 3
"""The client has unsent bytes, and is not read until the kernel has taken them all."""
FAREWELL_PENDING = 4
"""The client is not read, and gets the farewell when the gap is over."""
FAREWELL_SENT = 5
"""The client has the farewell, and has sent nothing since."""
READ_PAUSED = 6
"""The client has sent bytes after the farewell; the bytes are read when the gap is over."""
LINGERING = 7
"""The client has all its bytes and end of file; input is discarded until the client closes."""
AWAITING_THREAD = 8
"""The client is not read: it waits for a thread in which its handler can run."""
STREAMING = 9
"""The client is served by the callbacks of a stream handler; it may have unsent bytes."""
DEPARTING = 10
"""The connection of a stream handler is over, which the handler learns at the end of the turn."""
SECURING = 11
"""The client has not finished the handshake of TLS."""
CLIENT_PHASES = 12
"""The number of phases above: a smaller number is the phase of a client."""

# The phases of the other event sources.
LISTENING = 12
"""An acceptor accepts clients, or is paused and tries again later."""
WAKING = 13
"""The eventfd of the poller is readable when another thread has posted an action."""
SWEEPING = 14
"""The idle timeout of a client may have passed."""
REPORTING = 15
"""Refused clients may have to be reported."""
REMINDING = 16
"""Handlers may have clients that have not got the farewell yet."""
HANDSHAKING = 17
"""Handshakes that had begun when new connections were refused are over."""
ENDING = 18
"""The I/O thread ends now, whether or not clients still linger."""
CALLING = 19
"""A function that a stream handler has scheduled is due."""
TRYING = 20
"""A client may have been silent for so long that its handler is tried out."""
ARRIVING = 21
"""A connection from a proxy has not sent all of its header yet."""
TAKING_TURNS = 22
"""The turn of a client to be told may have come."""
TELLING = 23
"""Clients that an operator tells may be at rest, or their deadline may have passed."""
GONE = 24
"""The client or acceptor belongs to this I/O thread no more; nothing is done about it."""
PHASES = 25
"""The number of all phases: the length of the tables."""

# How far the farewell of a client has come: `Client.told`.
NOT_TOLD = 0
"""The farewell has not been sent."""
TOLD = 1
"""The farewell has been sent or is unsent; the first bytes after it have not been read."""
ANSWERED = 2
"""The client has sent bytes after the farewell, and is served as before."""
INPUT_ENDED = 3
"""No farewell is declared, and end of file has told the client."""
