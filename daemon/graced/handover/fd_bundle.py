"""Any number of descriptors as one: sent to a Unix socket and not received yet (unix(7)).

The kernel keeps what is under way as long as the receiving end is open, whoever has it.  So the
service manager's store needs room for one descriptor; and it need not compare each with all others,
which takes half a second for a thousand.  How many may be under way is limited by RLIMIT_NOFILE.
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
MOST = 253
"""Descriptors in one message (SCM_MAX_FD)."""


class FdBundle:
    """A pair of sockets with descriptors between them.  For one thread at a time."""

    def __init__(self) -> None:
        self.receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)

    def put(self, descriptors: Sequence[int]) -> bool:
        """Put up to `MOST` into it; return whether there was room."""
        try:
            socket.send_fds(self._sender, [b"\0"], descriptors)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Give up both ends; who else has the receiver has what is in it."""
        self._sender.close()
        self.receiver.close()


def unpack(receiver: socket.socket) -> Iterator[list[int]]:
    """Copies of what was put in, message by message; it stays in there.  None is inheritable.

    Raises `OSError` where this process may not have so many descriptors.
    """
    receiver.setblocking(False)
    receiver.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, 0)
    space = socket.CMSG_SPACE(MOST * _INT.size)
    while True:
        try:
            byte, messages, flags, _ = receiver.recvmsg(
                1, space, socket.MSG_PEEK | socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        if not byte:
            return
        data = b"".join(data for _, _, data in messages)
        yield [fd for (fd,) in _INT.iter_unpack(data)]
        if flags & socket.MSG_CTRUNC:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
