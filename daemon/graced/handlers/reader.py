"""The input file of a handler that can go on in another process.

`io.BufferedReader` loses the beginning of a line when an exception ends a read.  This reader takes
bytes out only when a read is complete, so what it has read ahead is part of the handler's state.
"""

from __future__ import annotations

import io

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket

_LARGEST_READ = 1024 * 1024


class Reader(io.BufferedIOBase):
    """A buffered binary file over a socket.  For one thread."""

    def __init__(self, sock: socket, size: int) -> None:
        """`size`: bytes to ask the socket for; less than 0: the default.

        0: no byte more than the caller wants, as the handler also reads from the socket itself.
        """
        self._sock = sock
        self._reads_ahead = size != 0
        self._size = io.DEFAULT_BUFFER_SIZE if size < 0 else max(size, 1)
        self.ahead = bytearray()
        """Bytes that were received, and that the handler has not got yet."""
        # As `socket.makefile` does: a socket is closed after its files.
        sock._io_refs += 1  # type: ignore[attr-defined]

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._sock._decref_socketios()  # type: ignore[attr-defined]

    def _fill(self, wanted: int = 0) -> bool:
        """Receive; return whether there was a byte."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        data = self._sock.recv(min(max(self._size, wanted), _LARGEST_READ))
        self.ahead += data
        return bool(data)

    def _take(self, size: int) -> bytes:
        taken = bytes(self.ahead[:size])
        del self.ahead[:size]
        return taken

    def peek(self, _size: int = 0) -> bytes:
        """Return what was read ahead, at least one byte unless at end of file."""
        if not self.ahead:
            self._fill()
        return bytes(self.ahead)

    def read1(self, size: int = -1) -> bytes:
        if not self.ahead and size:
            self._fill(0 if self._reads_ahead else size)
        return self._take(len(self.ahead) if size < 0 else size)

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            while self._fill():
                continue
            return self._take(len(self.ahead))
        if not self._reads_ahead:
            # As `socket.SocketIO`, which returns what there is.
            return self.read1(size)
        while len(self.ahead) < size and self._fill(size - len(self.ahead)):
            continue
        return self._take(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        limit = -1 if size is None else size
        looked_at = 0
        while (end := self.ahead.find(b"\n", looked_at)) < 0:
            looked_at = len(self.ahead)
            if 0 <= limit <= looked_at or not self._fill():
                end = looked_at - 1
                break
        length = end + 1
        return self._take(length if limit < 0 else min(length, limit))
