"""The service manager's end of NOTIFY_SOCKET, sd_notify(3): a real datagram socket."""

from __future__ import annotations

import array
import os
import select
import socket
import struct
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from support.log import PATIENCE

_MOST_DESCRIPTORS = 253
"""In one message (SCM_MAX_FD)."""
_MARK = b"X_MARK=1"
"""Sent by the test itself: what was sent before has come when this has."""


def fill_queue(path: str, message: bytes = b"x") -> int:
    """Fill the queue of a datagram socket like other programs; return the number of messages.

    One program has room for some 280 messages in its own buffer, and systemd sets the length of
    the queue to 512 (net.unix.max_dgram_qlen).
    """
    total = 0
    while sent := _send_all(path, message):
        total += sent
    return total


def _send_all(path: str, message: bytes) -> int:
    """Send as many messages as one program can, and return their number."""
    number = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.connect(path)
        other.setblocking(False)
        while True:
            try:
                other.send(message)
            except BlockingIOError:
                return number
            number += 1


class Message(NamedTuple):
    """One datagram and its sender."""

    text: str
    sender: int
    """Its pid."""

    @property
    def words(self) -> list[str]:
        """What is assigned: ``READY``, ``STATUS``."""
        return [line.partition("=")[0] for line in self.text.splitlines()]


class NotifySocket:
    """Records what it is told, in order, as a context manager.

    A BARRIER is passed at once, unless `hold_barriers` is set: then when `release` is called.
    """

    def __init__(self, *, abstract: bool = False) -> None:
        self.hold_barriers = False
        self._directory = tempfile.TemporaryDirectory(prefix="graced-")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        if abstract:
            self.name = f"@{self._directory.name}/notify"
            self._socket.bind("\0" + self.name[1:])
        else:
            self.name = str(Path(self._directory.name) / "notify")
            self._socket.bind(self.name)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._messages: list[Message] = []
        self._marks = 0
        self._held: list[int] = []
        self._news = threading.Condition()
        self._stopped, self._stop = os.pipe()
        self._poll = select.poll()
        self._thread = threading.Thread(target=self._read, name="test notify")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        os.close(self._stop)
        self._thread.join()
        self.release()
        self._socket.close()
        os.close(self._stopped)
        self._directory.cleanup()

    @property
    def environment(self) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.name}

    def _read(self) -> None:
        self._poll.register(self._socket, select.POLLIN)
        self._poll.register(self._stopped, select.POLLIN)
        while True:
            ready = {fd for fd, _ in self._poll.poll()}
            if self._socket.fileno() in ready:
                self._take()
            elif self._stopped in ready:
                return
            else:
                with self._news:
                    self._hung_up(ready)
                    self._news.notify_all()

    def _take(self) -> None:
        room = socket.CMSG_SPACE(12) + socket.CMSG_SPACE(_MOST_DESCRIPTORS * 4)
        data, ancillary, _, _ = self._socket.recvmsg(65536, room, socket.MSG_CMSG_CLOEXEC)
        sender, fds = 0, array.array("i")
        for level, kind, content in ancillary:
            assert level == socket.SOL_SOCKET
            if kind == socket.SCM_CREDENTIALS:
                sender = struct.unpack("3i", content)[0]
            elif kind == socket.SCM_RIGHTS:
                fds.frombytes(content)
        text = data.decode()
        with self._news:
            if data == _MARK:
                self._marks += 1
                self._news.notify_all()
                return
            self._messages.append(Message(text, sender))
            if "FDSTORE" in text:
                self._store(text, list(fds))
            self._held += fds
            if not self.hold_barriers:
                self._pass()
            self._news.notify_all()

    def _store(self, text: str, descriptors: list[int]) -> None:
        """Keep nothing (see `support.store.FdStore`)."""

    def _hung_up(self, descriptors: set[int]) -> None:
        """What is in `_poll` besides our own has hung up."""

    def _pass(self) -> None:
        while self._held:
            os.close(self._held.pop())

    def release(self) -> None:
        """Pass the barriers that are held, and those to come."""
        with self._news:
            self.hold_barriers = False
            self._pass()

    @property
    def messages(self) -> list[Message]:
        """Those that were sent so far, by a process that has ended perhaps."""
        self._await_sent()
        with self._news:
            return list(self._messages)

    def _await_sent(self) -> None:
        if not self._thread.is_alive():
            return
        with self._news:
            wanted = self._marks + 1
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            try:
                sock.sendto(_MARK, self._socket.getsockname())
            except FileNotFoundError:
                # The test has moved the socket away, and nobody else reaches it either.
                return
        with self._news:
            assert self._news.wait_for(lambda: self._marks >= wanted, timeout=PATIENCE)

    @property
    def texts(self) -> list[str]:
        """What has been said so far."""
        return [message.text for message in self.messages]

    def count(self, text: str) -> int:
        """How many messages so far have `text` in them."""
        return sum(text in said for said in self.texts)

    def wait_for(self, text: str, count: int = 1, *, within: float = PATIENCE) -> Message:
        """Wait until so many messages have `text` in them; return the last of these."""

        def found() -> list[Message]:
            return [message for message in self._messages if text in message.text]

        with self._news:
            self._news.wait_for(lambda: len(found()) >= count, timeout=within)
            messages = found()
        assert len(messages) >= count, f"{len(messages)} of {count} {text!r} in {self.texts}"
        return messages[count - 1]

    def stays_silent(self, text: str, seconds: float) -> bool:
        """Whether no message with `text` comes in so many seconds from now."""
        before = self.count(text)
        with self._news:
            return not self._news.wait_for(
                lambda: sum(text in message.text for message in self._messages) > before,
                timeout=seconds,
            )
