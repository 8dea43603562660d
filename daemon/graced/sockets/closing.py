"""The end of a connection, without a reset where possible.

Every connection that the server ends goes the same way: *tell* (the last words), *half-close* (end
of file for the client), *read* (and discard, because the kernel answers unread input with RST, and
RST destroys what the client has not read yet), *close*.  `part` is the first two steps; then comes
`linger`, where the thread may wait, or `discard`, where it may not.  A lingering client of an I/O
thread has the same `LINGER_TIMEOUT`.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

LINGER_TIMEOUT = 1.0
"""Seconds that a client has to close after end of file, before its descriptor is closed."""
_FIN_TIMEOUT = 1
"""Seconds, whole, after which the kernel forgets a connection that only the server has closed."""
_LINGER_NOT = struct.pack("ii", 1, 0)
"""close(2) waits zero seconds for bytes to be taken, and then resets the connection, socket(7)."""
_READ_SIZE = 1024 * 1024
_MAX_READS = 4
"""Reads of input that has arrived; a client that sends without a pause cannot hold up a close."""


def is_at_its_end(request: socket.socket) -> bool:
    """Whether the client has sent end of file and all bytes before it have been read.

    A connection that is broken, or was closed by the handler, is at the end too.
    """
    poll = select.poll()
    try:
        poll.register(request, select.POLLIN)
        # A read would wait for the handler's timeout, whatever its flags say.
        flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
        return bool(poll.poll(0)) and not socket.socket.recv(request, 1, flags)
    except BlockingIOError:
        return False
    except (OSError, ValueError):
        return True


def part(sock: socket.socket, last_words: bytes = b"") -> None:
    """Send the last words, as far as the kernel takes them at once, and end of file.

    Raises `OSError` where the client has gone.
    """
    if last_words:
        with suppress(BlockingIOError):
            sock.send(last_words, socket.MSG_DONTWAIT)
    sock.shutdown(socket.SHUT_WR)


def end_one_way(request: socket.socket) -> None:
    """Send end of file."""
    try:
        request.shutdown(socket.SHUT_WR)
    except OSError:
        # ENOTCONN, EBADF: the client or the handler was faster, nobody waits for end of file.
        return


def end_input(request: socket.socket) -> None:
    """Let a read find end of file after the bytes that have arrived: also a read that waits.

    The kernel still accepts bytes of a TCP client, and a read still returns them.  A Unix client
    gets EPIPE for them.
    """
    try:
        request.shutdown(socket.SHUT_RD)
    except OSError:
        # ENOTCONN, EBADF: the client or the handler was faster.
        return


def end_both_ways(request: socket.socket) -> None:
    """Send end of file and read nothing more: a thread that waits in a read finds the end."""
    try:
        request.shutdown(socket.SHUT_RDWR)
    except OSError:
        # ENOTCONN, EBADF: the client or the handler was faster.
        return


def reset(sock: socket.socket) -> None:
    """Close a connection with RST: no word for the client, no memory of it in the kernel."""
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)


def discard(sock: socket.socket) -> None:
    """Read the input that has arrived, so that a close does not make the kernel send RST."""
    try:
        for _ in range(_MAX_READS):
            if not socket.socket.recv(sock, _READ_SIZE, socket.MSG_DONTWAIT):
                return
            _free_blocked_client(sock)
    except OSError:
        # EAGAIN: no more input.  ECONNRESET, EBADF: the client or the handler was faster.
        return


def _free_blocked_client(sock: socket.socket) -> None:
    """Let a write of the client fail soon after the close.

    A client whose bytes have found no room asks its kernel again and again for room; after
    SHUT_RD reading makes none.  The answer, RST, comes when our kernel has forgotten the
    connection: a minute after the close (tcp_fin_timeout), unless told otherwise.
    """
    with suppress(OSError):
        # A Unix socket, whose client has EPIPE at once; or the client was faster.
        socket.socket.setsockopt(sock, socket.IPPROTO_TCP, socket.TCP_LINGER2, _FIN_TIMEOUT)


def close_quickly(sockets: Iterable[socket.socket]) -> None:
    """Close many sockets with few system calls, each of which would give other threads the GIL."""
    descriptors = sorted(sock.detach() for sock in sockets if sock.fileno() >= 0)
    while descriptors:
        first = end = descriptors[0]
        while descriptors and descriptors[0] == end:
            descriptors.pop(0)
            end += 1
        # Never of an empty range: Python's closerange(0, 0) closes every descriptor.
        os.closerange(first, end)


def linger(request: socket.socket) -> None:
    """Send end of file, then read to the client's end, for `LINGER_TIMEOUT` at most."""
    deadline = time.monotonic() + LINGER_TIMEOUT
    try:
        part(request)
        _free_blocked_client(request)
        while (remaining := deadline - time.monotonic()) > 0:
            request.settimeout(remaining)
            if not socket.socket.recv(request, 65536):
                return
    except OSError:
        # The client has gone, or does not close: nothing more can be done for it.
        return
