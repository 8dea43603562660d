"""The channel between the old and the new process of a reload: letters, with descriptors.

A pair of sockets of the kind SOCK_SEQPACKET, which keeps letters apart and in their order, and
delivers a letter whole or not at all.  A letter is one line, the name of the message and words of
the form ``name=value``, and then any bytes.  The two processes may be of different versions: a
reader ignores words that it does not know, and letters whose message it does not know.

A letter is small.  What may be large (the state of clients) is in a file of its own, whose
descriptor the letter has (`graced.reload.batch`).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import suppress

from graced.reload.table import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_DESCRIPTORS = 253
"""Descriptors in one letter (SCM_MAX_FD)."""
MAX_SIZE = 65536
"""Bytes of a letter; the default buffer of a socket has room for three (net.core.wmem_default)."""
_INT = struct.Struct("i")


class Letter:
    """A message that was received.  Owns its descriptors, none of which is inheritable."""

    __slots__ = ("cut", "data", "descriptors", "message", "words")

    def __init__(
        self, message: Message, words: dict[str, str], data: bytes, descriptors: list[int]
    ) -> None:
        self.message = message
        self.words = words
        self.data = data
        self.descriptors = descriptors
        """A descriptor that is used is taken out of the list."""
        self.cut = False
        """Whether descriptors are missing: this process may not have so many."""

    def number(self, word: str) -> int:
        """The value of a word as a number; 0 where there is none."""
        value = self.words.get(word, "")
        return int(value) if value.isascii() and value.isdigit() else 0

    def close(self) -> None:
        """Close the descriptors that are still in the list."""
        _close(self.descriptors)


class Channel:
    """One end.  For one thread at a time; no call waits."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self.ended = False
        """Whether the other process has closed its end, or is gone, and everything is read."""

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Both ends.  Raises `OSError`."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(one), cls(other)

    def fileno(self) -> int:
        """The descriptor, readable when there is a letter or the other end is closed."""
        return self._sock.fileno()

    def send(
        self,
        message: Message,
        words: Mapping[str, object] | None = None,
        data: bytes = b"",
        descriptors: Sequence[int] = (),
    ) -> None:
        """Send a letter; the descriptors stay open here, too.

        Raises `OSError`: EPIPE and ECONNRESET where the other end is closed, EAGAIN where the other
        process reads nothing, ETOOMANYREFS where RLIMIT_NOFILE forbids so many in flight, EMSGSIZE
        where the letter is too large.
        """
        line = " ".join(
            [message.name, *(f"{name}={value}" for name, value in (words or {}).items())]
        )
        letter = line.encode("utf-8", "backslashreplace") + b"\n" + data
        if len(letter) > MAX_SIZE or len(descriptors) > MAX_DESCRIPTORS:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        if descriptors:
            socket.send_fds(self._sock, [letter], descriptors)
        else:
            self._sock.send(letter)

    def receive(self) -> Letter | None:
        """The next letter; None where there is none at present, or no more (`ended`)."""
        space = socket.CMSG_SPACE(MAX_DESCRIPTORS * _INT.size)
        while not self.ended:
            try:
                data, controls, flags, _ = self._sock.recvmsg(
                    MAX_SIZE, space, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return None
            except ConnectionResetError:
                # The other process was killed with letters of ours unread.
                continue
            if not data:
                self.ended = True
                return None
            letter = _parse(data, _descriptors(controls))
            if letter:
                letter.cut = bool(flags & socket.MSG_CTRUNC)
                return letter
        return None

    def end(self) -> None:
        """Let the other process read the end; what it has sent, and sends yet, can be read here."""
        with suppress(OSError):
            # Gone already.
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close this end; the other process reads what was sent, and then the end."""
        self._sock.close()


def _parse(letter: bytes, descriptors: list[int]) -> Letter | None:
    """None where another version has sent a message that is unknown here."""
    line, _, data = letter.partition(b"\n")
    name, *words = line.decode("utf-8", "replace").split(" ")
    message = Message.__members__.get(name)
    if message is None:
        _close(descriptors)
        return None
    return Letter(message, dict(word.partition("=")[::2] for word in words), data, descriptors)


def _descriptors(controls: Sequence[tuple[int, int, bytes]]) -> list[int]:
    # What is cut may end in the middle of a number.
    data = b"".join(data[: len(data) - len(data) % _INT.size] for _, _, data in controls)
    return [fd for (fd,) in _INT.iter_unpack(data)]


def _close(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())
