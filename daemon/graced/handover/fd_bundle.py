"""A file descriptor bundle: descriptors that are sent to a Unix socket and not received (unix(7)).

The kernel keeps the descriptors as long as a process has the receiving end open.  So any number of
descriptors takes one place in the service manager's store; and the service manager need not compare
each descriptor with all others, which takes half a second for a thousand.  RLIMIT_NOFILE limits how
many descriptors may be in flight (sent and not received).
"""

from __future__ import annotations

import errno
import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SO_PEEK_OFF = 42
"""asm-generic/socket.h; Python has no name for it."""
_INT = struct.Struct("i")
_PASSING = frozenset({errno.ENOBUFS, errno.ENOMEM})
_TRIES = 3
"""Times that a message is sent where the kernel is short of memory for a moment."""
MAX_DESCRIPTORS = 253
"""Descriptors in one message (SCM_MAX_FD)."""


class FdBundle:
    """A pair of sockets with descriptors between them.  For one thread at a time."""

    def __init__(self) -> None:
        self.receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)

    def put(self, descriptors: Sequence[int]) -> bool:
        """Add up to `MAX_DESCRIPTORS` descriptors; return whether there was room.

        There is no room where a buffer is full, where too many descriptors are in flight, and where
        every copy of the receiving end is closed.
        """
        for _ in range(_TRIES):
            try:
                socket.send_fds(self._sender, [b"\0"], descriptors)
            except OSError as error:
                if error.errno not in _PASSING:
                    return False
            else:
                return True
        return False

    def close(self) -> None:
        """Close both ends; a process that has a copy of the receiver has the descriptors."""
        self._sender.close()
        self.receiver.close()


def keeps_descriptors(receiver: socket.socket) -> bool:
    """Whether `unpack` leaves the descriptors in the bundle.  To be asked before `unpack`."""
    try:
        receiver.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, 0)
    except OSError:
        return False
    return True


def unpack(receiver: socket.socket) -> Iterator[list[int]]:
    """Yield copies of the descriptors, message by message; the bundle keeps its own.

    Where the system has no SO_PEEK_OFF (gVisor, a seccomp filter) the bundle keeps nothing.
    No copy is inheritable.  Raises `OSError` where this process may not have so many descriptors.
    """
    receiver.setblocking(False)
    peek = int(socket.MSG_PEEK) if keeps_descriptors(receiver) else 0
    space = socket.CMSG_SPACE(MAX_DESCRIPTORS * _INT.size)
    while True:
        try:
            byte, messages, flags, _ = receiver.recvmsg(1, space, peek | socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        if not byte:
            return
        data = b"".join(data for _, _, data in messages)
        yield [fd for (fd,) in _INT.iter_unpack(data)]
        if flags & socket.MSG_CTRUNC:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
